"""Which of kombu's transports are watched, and how those that are not are refused."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from celery_ops.broker import connect
from celery_ops.broker.by_kombu.address import KombuAddress, parse
from celery_ops.config.secret import Secret
from celery_ops.errors import UsageError
from celery_ops.fleet.clock import SystemClock
from tests.rig.missing import missing

if TYPE_CHECKING:
    from pathlib import Path


async def refused(url: str) -> UsageError:
    with pytest.raises(UsageError) as raised:
        await connect(Secret(url), {}, clock=SystemClock())
    return raised.value


@pytest.mark.parametrize(
    ("url", "says", "fix"),
    [
        ("memory://", "inside of one process", "another broker"),
        ("mongdb://db/shop", "mongdb:// is no broker that kombu knows", "mongodb://?"),
        ("nosuch://", "nosuch:// is no broker that kombu knows", "zookeeper"),
        ("filesystem://", "in the transport options", "data_folder_in=DIR"),
        ("rediss+cluster://h", "Redis Cluster", "celery inspect stats"),
        (
            "filesystem://?data_folder_in=/a&data_folder_out=/b",
            "are two folders",
            "the one that its workers read from",
        ),
    ],
)
async def test_what_cannot_be_watched_is_refused_by_name(url: str, says: str, fix: str) -> None:
    error = await refused(url)
    assert says in error.says
    assert fix in str(error.fix)


async def test_a_scheme_that_may_be_a_password_is_not_repeated() -> None:
    error = await refused("s3cr3t_word://host")
    assert "s3cr3t" not in str(error)


@pytest.mark.parametrize(
    ("transport", "module", "package"),
    [
        ("mongodb", "pymongo", "'kombu[mongodb]'"),
        ("zookeeper", "kazoo", "'kombu[zookeeper]'"),
        ("kafka", "confluent_kafka", "'kombu[confluentkafka]'"),
        ("azureservicebus", "azure", "'kombu[azureservicebus]'"),
        ("etcd", "etcd", "python-etcd"),
    ],
)
async def test_a_package_that_is_missing_is_named(
    transport: str, module: str, package: str
) -> None:
    if importlib.util.find_spec(module) is not None:
        missing(f"an environment without {module}")
    error = await refused(f"{transport}://user:s3cr3t-word@host")
    assert module in error.says
    assert f"pip install {package}" in str(error.fix)
    assert "s3cr3t" not in str(error)


def test_folders_are_read_from_the_options_or_the_url(tmp_path: Path) -> None:
    names = ("data_folder_in", "data_folder_out", "control_folder")
    given = {name: str(tmp_path / name.replace("_out", "_in")) for name in names}
    by_options = parse(Secret("filesystem://"), given)
    query = "&".join(f"{name}={value}" for name, value in given.items())
    by_url = parse(Secret(f"filesystem://?{query}"), {})
    assert by_url == by_options
    assert by_url.folders is not None
    assert by_url.folders.control == tmp_path / "control_folder"
    assert str(by_url) == f"filesystem://{tmp_path / 'data_folder_in'}"


def test_it_is_shown_without_its_password() -> None:
    address = KombuAddress("sqla", Secret("sqla+postgresql://ops:s3cr3t%2Fword@db/shop"))
    assert str(address) == "sqla+postgresql://ops:***@db/shop"
    told = address.without_secrets("access denied (using s3cr3t/word, or s3cr3t%2Fword)")
    assert told == "access denied (using ***, or ***)"
