"""``python -m app``: serve the webhook as the settings say."""

import argparse
import resource
import sys
from typing import Final

from pydantic import ValidationError
from pydantic_settings import SettingsError

from app.credentials import CredentialsError
from app.server import serve
from app.settings import Settings

_USAGE: Final = 2


def main() -> int:
    """Serve until told to stop. There are no arguments: ``--help`` lists the settings. 2 is returned for a wrong one."""
    argparse.ArgumentParser(
        prog="python -m app",
        description="Serve the Metacontroller hooks. Every setting is an environment variable:",
        epilog="\n".join(
            f"  TIDB_BACKUP_{name.upper()}={field.default or ''}" for name, field in Settings.model_fields.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the token and the key
    try:
        settings = Settings()
        serve(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        print(f"error: TIDB_BACKUP_{name}: {first['msg']}", file=sys.stderr)  # noqa: T201  (the one line that its user sees)
        return _USAGE
    except (CredentialsError, SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  (the one line that its user sees)
        return _USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
