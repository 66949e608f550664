"""Write docs/settings.md from the settings themselves, or check that it is fresh."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import SecretStr

from prinz_enricher.config import ENVIRONMENT_PREFIX, AccessKeys, EndpointSettings, Section, sections

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD = f"""\
# Settings

Each setting has a default, and is set by, each over the one before:

1. a TOML file, named by `prinz-enricher serve --config FILE`;
2. an environment variable, `{ENVIRONMENT_PREFIX}<SECTION>__<KEY>`, such as `{ENVIRONMENT_PREFIX}SERVER__PORT=50051`; a
   list is separated by commas, or is JSON;
3. a flag of `prinz-enricher serve`, where there is one (`prinz-enricher serve --help`).

An unknown key is refused. Secrets are settings of the file or the environment, never flags, which anyone on the machine
can read. Such a file, with what most people set:

```toml
[registry]
url = "http://mlflow:5000"

[server]
host = "0.0.0.0"

[scoring]
preload = ["wine", "fraud-*"]
```
"""


def page() -> str:
    """Return the text of the page."""
    known: dict[str, type[Section]] = {**sections(), "endpoints.NAME": EndpointSettings}
    return HEAD + "".join(_section(name, kind) for name, kind in known.items())


def _section(name: str, kind: type[Section]) -> str:
    rows = [f"\n## [{name}]\n", f"{(kind.__doc__ or '').strip()}\n", "| key | default | what it is |", "|---|---|---|"]
    # The keys of access, which several sections have, come last.
    for key, field in sorted(kind.model_fields.items(), key=lambda item: item[0] in AccessKeys.model_fields):
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = repr(default).replace("'", '"')
        description = " ".join((field.description or "").split())
        rows.append(f"| `{key}` | `{shown}` | {description} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Run the command line; `--check` changes nothing, and fails if the page is not fresh."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit("docs/settings.md is not fresh, run `make docs`")


if __name__ == "__main__":
    main()
