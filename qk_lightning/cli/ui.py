"""`qk ui`: MLflow's page over the project's store, until Ctrl-C."""

from __future__ import annotations

import argparse
import sys

from qk_lightning.config.find_runs import list_runs
from qk_lightning.tracking.mlflow_store import RECORD, check_store, store_uri
from qk_lightning.tracking.page import ANY_HOST, open_page, remote_address

FAILED = 1


def ui(options: argparse.Namespace) -> int:
    """Serve the page, or name the address of a store that has one.

    Args:
        options: the parsed command line.

    Returns:
        0 after Ctrl-C, 1 where the server does not start or ends by itself.
    """
    check_store()
    if address := remote_address():
        print(f"the store is a server with a page of its own: {address}")
        return 0
    page = open_page(options.host, options.port)
    print(f"MLflow store {store_uri()}\nstarting its page ...", flush=True)
    try:
        with page:
            page.wait_until_ready()
            more = f", and by this machine's name at port {page.port}"
            more = more if options.host in ANY_HOST else ""
            print(f"{page.address}{_list_of_runs()}{more}  (Ctrl-C ends it)")
            sys.stdout.flush()
            page.wait()
            print(f"qk ui: MLflow's server has ended:\n{page.last_words()}", file=sys.stderr)
    except RuntimeError as error:
        print(f"qk ui: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nended")
        return 0
    return FAILED


def _list_of_runs() -> str:
    """Return where on the page the newest run's experiment is; "" where nothing is tracked."""
    records = [run.read_json(RECORD) for run in list_runs()]
    here = [one for one in records if one.get("uri") == store_uri()]
    return f"/#/experiments/{here[-1]['experiment_id']}/runs" if here else ""
