"""``python -m tinkex_actors`` is the command ``tinkex-actors``."""

from tinkex_actors.cli.main import main

if __name__ == "__main__":
    main()
