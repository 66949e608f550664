"""Write docs/settings.md from the settings themselves, or check that it is fresh."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pydantic import SecretStr

from prinz_enricher.config import (
    ENVIRONMENT_PREFIX,
    AccessKeys,
    AccessRule,
    EndpointSettings,
    Section,
    is_reloaded,
    section_of,
    sections,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

ACCESS = "Authentication and certificates"
"""The section of the keys that several other sections have too."""

MARK = "↻"

HEAD = f"""\
# Settings

Sources, later ones override earlier ones:

1. defaults;
2. a TOML file: `prinz-enricher serve --config FILE`;
3. environment variables: `{ENVIRONMENT_PREFIX}<SECTION>__<KEY>`, such as `{ENVIRONMENT_PREFIX}SERVER__TLS__KEY=tls.key`
   or `{ENVIRONMENT_PREFIX}REGISTRIES__<NAME>__URL=…`; lists are JSON or separated by commas;
   `{ENVIRONMENT_PREFIX}ACCESS` is a JSON list;
4. flags: `prinz-enricher serve --help`. Secrets have none, since anyone on the machine can read flags.

Unknown keys are refused. Keys marked {MARK} are taken over from the file at SIGHUP, the others need a restart
([operations.md](operations.md#reloading)). A typical file:

```toml
[registry]
url = "http://mlflow:5000"

[server]
host = "0.0.0.0"

[server.tls]
certificate = "tls.crt"
key = "tls.key"

[scoring]
preload = ["wine", "fraud-*"]
```
"""


def page() -> str:
    """Return the text of the page."""
    known: dict[str, type[Section]] = {**sections(), "[access]": AccessRule, "endpoints.NAME": EndpointSettings}
    parts = [_section(f"[{name}]", kind) for name, kind in known.items()]
    return HEAD + "".join(parts) + _section(ACCESS, AccessKeys)


def _section(heading: str, kind: type[Section]) -> str:
    about = re.sub(r"docs/(\w+\.md)", r"[\1](\1)", (kind.__doc__ or "").strip())
    fields = kind.model_fields
    if kind is not AccessKeys and issubclass(kind, AccessKeys):
        about += f" Also has the keys of [{ACCESS.lower()}](#{ACCESS.lower().replace(' ', '-')})."
        fields = {key: field for key, field in fields.items() if key not in AccessKeys.model_fields}
    rows = [f"\n## {heading}\n", f"{about}\n", "| key | default | meaning |", "|---|---|---|"]
    tables = {key: inner for key in fields if (inner := section_of(kind, key)) is not None}
    for key, field in fields.items():
        if key in tables:
            continue
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = "required" if field.is_required() else f"`{default!r}`".replace("'", '"')
        description = " ".join((field.description or "").split())
        mark = f" {MARK}" if is_reloaded(heading.strip("[]"), key) else ""
        rows.append(f"| `{key}`{mark} | {shown} | {description} |")
    return (
        "\n".join(rows) + "\n" + "".join(_section(f"[{heading[1:-1]}.{key}]", inner) for key, inner in tables.items())
    )


def main() -> None:
    """Run the command line; `--check` changes nothing, and fails if the page is not fresh."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit("docs/settings.md is not fresh, run `make docs`")


if __name__ == "__main__":
    main()
