"""Which timm architectures are run, and which networks are compared with ONNX."""

from __future__ import annotations

# The smallest member of each family, several where the family has variants.
_LINES = (
    "resnet18 resnet10t resnet26d seresnet18 ecaresnet26t resnetblur18 resnetrs50 resnetaa34d",
    "resnext50_32x4d seresnext26t_32x4d legacy_seresnet18 legacy_seresnext26_32x4d resnetv2_18",
    "resnetv2_50x1_bit resnetv2_50d_gn resnetv2_50d_evos resnetv2_50d_frn resnest14d skresnet18",
    "skresnext50_32x4d regnetx_002 regnety_002 regnetz_005 regnetv_040 regnetz_b16",
    "regnetz_b16_evos densenet121 densenetblur121d dpn48b dpn68b efficientnet_b0",
    "efficientnet_b0_gn efficientnet_es efficientnet_lite0 efficientnet_cc_b0_4e",
    "efficientnet_blur_b0 efficientnet_b1_pruned tf_efficientnetv2_b0 tinynet_e mixnet_s",
    "mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050 tf_mobilenetv3_small_minimal_100",
    "mobilenetv4_conv_small_035 mobilenetv4_conv_aa_medium mobilenetv4_hybrid_medium_075",
    "mobilenet_edgetpu_v2_xs mobilenetv5_base lcnet_035 lcnetv2_small fbnetc_100 fbnetv3_b",
    "hardcorenas_a spnasnet_100 mnasnet_050 semnasnet_050 rexnet_100 rexnetr_100 ghostnet_050",
    "ghostnetv2_100 ghostnetv3_050 repghostnet_050 convnext_atto convnext_atto_ols",
    "convnext_zepto_rms convnextv2_atto test_convnext3 nf_resnet26 nf_ecaresnet26 nf_regnet_b0",
    "nfnet_l0 eca_nfnet_l0 dm_nfnet_f0 test_nfnet vit_tiny_patch16_224 vit_small_patch14_dinov2",
    "vit_wee_patch16_reg1_gap_256 vit_dpwee_patch16_reg1_gap_256 vit_base_patch16_siglip_224",
    "vit_small_patch16_36x1_224 vit_small_patch16_18x2_224 flexivit_small",
    "vit_srelpos_small_patch16_224 vit_relpos_small_patch16_224 vit_relpos_small_patch16_rpn_224",
    "vit_tiny_r_s16_p8_224 samvit_base_patch16_224 naflexvit_base_patch16_gap vitamin_small_224",
    "deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224",
    "swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224",
    "swinv2_cr_tiny_ns_224 beit_base_patch16_224 beitv2_base_patch16_224 eva02_tiny_patch14_224",
    "vit_tiny_patch16_dinov3_qkvb vit_small_patch16_rope_224 vit_small_patch16_rope_mixed_224",
    "vit_pe_spatial_tiny_patch16_512 cait_xxs24_224 coat_tiny coat_lite_tiny coatnet_pico_rw_224",
    "coatnet_nano_cc_224 coatnet_0_224 coatnext_nano_rw_224 levit_128s levit_conv_128s",
    "mixer_s32_224 gmixer_12_224 resmlp_12_224 gmlp_ti16_224 convmixer_768_32 poolformer_s12",
    "poolformerv2_s12 caformer_s18 convformer_s18 maxvit_pico_rw_256 maxvit_rmlp_pico_rw_256",
    "maxvit_tiny_tf_224 maxxvit_rmlp_nano_rw_256 maxxvitv2_nano_rw_256 edgenext_xx_small",
    "edgenext_small_rw efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_l1",
    "efficientvit_m0 efficientvim_m1 fastvit_t8 fastvit_sa12 fastvit_mci0 fasternet_t0",
    "hrnet_w18_small dla34 dla46x_c dla60_res2net inception_v3 inception_v4 inception_resnet_v2",
    "inception_next_atto legacy_xception xception41 xception41p repvgg_a0 repvgg_d2se",
    "mobileone_s0 repvit_m0_9 res2net50_26w_4s res2next50 cspresnet50 cspresnext50 cspdarknet53",
    "darknet17 sedarknet21 darknetaa53 cs3darknet_s cs3darknet_focus_s cs3sedarknet_xdw",
    "cs3edgenet_x cspnext_tiny vovnet39a ese_vovnet19b_slim ese_vovnet19b_dw xcit_nano_12_p16_224",
    "twins_svt_small twins_pcpvt_small pvt_v2_b0 pvt_v2_b2_li crossvit_tiny_240",
    "crossvit_9_dagger_240 volo_d1_224 mobilevit_xxs mobilevitv2_050 convit_tiny pit_ti_224",
    "pit_ti_distilled_224 tnt_s_patch16_224 gcvit_xxtiny focalnet_tiny_srf davit_tiny nest_tiny",
    "nest_tiny_jx mvitv2_tiny mvitv2_small_cls hiera_tiny_224 hiera_small_abswin_256",
    "hieradet_small sequencer2d_s halonet26t eca_halonext26ts sehalonet33ts botnet26t_256",
    "lambda_resnet26t lambda_resnet26rpt_256 bat_resnext26ts gcresnext26ts gernet_s starnet_s050",
    "rdnet_tiny hgnet_tiny hgnetv2_b0 swiftformer_xs mambaout_femto nextvit_small cpubone_nano",
    "csatv2 iformer_t lowformer_b0 shvit_s1 tiny_vit_5m_224 visformer_tiny nasnetalarge",
    "pnasnet5large selecsls42 tresnet_m vgg11_bn",
)

TIMM: tuple[str, ...] = tuple(name for line in _LINES for name in line.split())

ONNX_SUBSET: frozenset[str] = frozenset(
    f"{family}:{name}"
    for family, names in {
        "torchvision": "resnet18 densenet121 mobilenet_v3_small shufflenet_v2_x0_5 swin_t vit_b_32 "
        "convnext_tiny googlenet lraspp_mobilenet_v3_large",
        "timm": "regnety_002 resnest14d efficientnet_b0 vit_tiny_patch16_224 levit_128s "
        "swinv2_tiny_window8_256 xcit_nano_12_p16_224 hgnetv2_b0 nf_resnet26 mobilevit_xxs "
        "coatnet_pico_rw_224",
        "huggingface": "bert-sdpa gpt2-eager llama-sdpa t5-eager",
        "detection": "retinanet_resnet50_fpn",
    }.items()
    for name in names.split()
)
