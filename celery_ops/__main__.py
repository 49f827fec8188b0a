"""`celery-ops` and `python -m celery_ops`."""

from celery_ops.cli.main import cli


def main() -> None:
    """Run the command line; never returns."""
    cli.main(prog_name="celery-ops")


if __name__ == "__main__":
    main()
