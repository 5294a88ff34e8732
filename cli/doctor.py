"""``graphprune doctor``: versions, devices and providers."""

from __future__ import annotations

from graphprune_cli import console, options


@console.reported
def command(as_json: options.Json = False) -> None:
    """Show versions, devices and onnxruntime's providers, and whether they really work."""
    from graphprune.doctor import examine

    document = examine()
    if as_json:
        console.print_json(document)
        return
    console.print_table(
        "versions",
        ["package", "version"],
        [[k, v] for k, v in document["versions"].items()],
        numbers=False,
    )
    console.print_table(
        "devices",
        ["device", "state"],
        [[k, v] for k, v in document["devices"].items()],
        numbers=False,
    )
    console.print_table(
        "onnxruntime",
        ["provider", "state"],
        [[k, v] for k, v in document["providers"].items()],
        numbers=False,
    )
