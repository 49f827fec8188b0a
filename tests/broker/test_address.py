"""Broker URLs, read as kombu reads them."""

from __future__ import annotations

import re
import ssl

import pytest
from kombu.utils.url import parse_url

from celery_ops.broker import address, connect
from celery_ops.broker.address import RedisAddress
from celery_ops.config.secret import Secret
from celery_ops.errors import UsageError
from celery_ops.fleet.clock import SystemClock


def parse(url: str, **options: object) -> RedisAddress:
    return address.parse(Secret(url), options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "redis://127.0.0.1:6379/0"),
        ("redis://Redis.Internal", "redis://redis.internal:6379/0"),
        ("redis://h:1234/7", "redis://h:1234/7"),
        ("redis://h/", "redis://h:6379/0"),
        ("redis://h?virtual_host=3", "redis://h:6379/3"),
        ("redis://:secret@h/1", "redis://:***@h:6379/1"),
        ("redis://ann:secret@h/1", "redis://ann:***@h:6379/1"),
        ("redis://ann@h/1", "redis://ann@h:6379/1"),
        ("redis://[::1]:1/2", "redis://[::1]:1/2"),
        ("rediss://:secret@h:1/2", "rediss://:***@h:1/2"),
        ("redis+socket:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0"),
        (
            "redis+socket://ann:secret@/run/r%20s.sock?virtual_host=3",
            "redis+socket://ann:***@/run/r s.sock?virtual_host=3",
        ),
        ("unix:///run/r.sock?db=2", "redis+socket:///run/r.sock?virtual_host=2"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert str(parse(url)) == shown
    assert "secret" not in repr(parse(url))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:p%40ss%2Fw%3A%23%3F@h:1/2",
        "redis://ann:p%25ss@h",
        "redis://us%40er:pw@H:99/0",
        "redis://:a:b:c@h/4",
    ],
)
def test_login_and_place_are_what_kombu_reads(url: str) -> None:
    ours, kombus = parse(url), parse_url(url)
    assert ours.username == kombus["userid"]
    assert ours.password is not None
    assert ours.password.reveal() == kombus["password"]
    assert ours.host == kombus["hostname"]
    assert ours.db == int(kombus["virtual_host"] or 0)


def test_tls_is_verified_as_the_url_says() -> None:
    assert parse("redis://h").tls is None
    bare = parse("rediss://h").tls
    assert bare is not None
    assert bare.verify is ssl.CERT_NONE, "as kombu, which warns of it"
    assert not bare.check_hostname
    full = parse("rediss://h?ssl_cert_reqs=required&ssl_ca_certs=/ca&ssl_check_hostname=false").tls
    assert full is not None
    assert (full.verify, full.ca_certs, full.check_hostname) == (ssl.CERT_REQUIRED, "/ca", False)
    same = parse("rediss://h?ssl_cert_reqs=CERT_REQUIRED&ssl_certfile=/c&ssl_keyfile=/k").tls
    assert same is not None
    assert (same.check_hostname, same.certfile, same.keyfile) == (True, "/c", "/k")


def test_broker_use_ssl_turns_tls_on() -> None:
    tls = parse("redis://h", ssl={"ssl_cert_reqs": ssl.CERT_NONE}).tls
    assert tls is not None
    assert tls.verify is ssl.CERT_NONE
    assert parse("redis://h", ssl=True).tls is not None
    assert parse("redis://h", ssl=False).tls is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost", "no scheme"),
        ("redis://h/notanumber", "not a number"),
        ("redis://h/-1", "not a number"),
        ("redis://:hun/ter2@h/0", "cannot be read"),
        ("redis://h:99999999/0", "cannot be read"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs=maybe is not known"),
        ("redis+socket://h/run/r.sock", "three slashes"),
        ("redis://:hun@a;redis://:ter2@b", "Several brokers"),
        ("redis+cluster://h", "no transport for Redis Cluster"),
        ("rediss+cluster://:hun@h", "no transport for Redis Cluster"),
        ("nosuch://:hun@ter2", "nosuch:// is no broker that kombu knows"),
        ("ann:hun@h://x", "The scheme of the broker's URL is none that kombu knows"),
        ("sentinel://h", "not told which master"),
        ("sentinel://:hun@h;sentinel://:ter2@h/0?master_name=m", "name different logins"),
        ("sentinel://h;sentinel://h/3?master_name=m", "name different databases"),
        ("sentinel://:hun@h;redis://:ter2@h?master_name=m", "a URL of its own"),
        ("sentinel://:hu;n@h/0?master_name=m", "a URL of its own"),
        ("sentinel://h:x/0?master_name=m", "cannot be read"),
        ("sentinel://h/x?master_name=m", "not a number"),
    ],
)
async def test_what_cannot_be_used_is_refused_in_plain_words(url: str, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        await connect(Secret(url), {}, clock=SystemClock())
    assert says in refused.value.says
    assert "hun" not in str(refused.value)
    assert "ter2" not in str(refused.value)


SENTINELS = "sentinel://ann:se%3Bcret@A:1/2;sentinel://b/2; sentinel://[::1]:3/2"


def test_an_address_by_sentinels_is_shown_without_any_password() -> None:
    found = parse(SENTINELS, master_name="m", sentinel_kwargs={"password": "hush"})
    login = "ann:***@"
    assert (
        str(found)
        == f"sentinel://{login}a:1/2;sentinel://{login}b:26379/2;sentinel://{login}[::1]:3/2"
    )
    assert not {"se;cret", "hush"} & set(re.findall(r"se;cret|hush", repr(found)))
    assert found.place == "m"
    assert found.password == Secret("se;cret")
    assert found.sentinels is not None
    for one in found.sentinels.addresses:
        assert (one.db, one.username, one.password) == (0, None, Secret("hush"))
        assert "hush" not in str(one)


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://localhost:1/2;sentinel://b:2/2",
        "sentinel://b:2/2;sentinel://127.0.0.1:1/2",
        "sentinel://:pw@B:2/2;sentinel://[::1]:1/2;sentinel://b:2/2",
        "sentinel://:pw@b:2/2;sentinel://LOCALHOST:1/2?master_name=other",
    ],
)
async def test_a_broker_is_the_same_in_whatever_order_its_sentinels_are_written(url: str) -> None:
    broker = await connect(Secret(url), {"master_name": "m"}, clock=SystemClock())
    assert broker.identity == "redis m by 127.0.0.1:1, b:2 db=2 prefix=''"
    await broker.close()


def test_the_login_may_stand_in_any_of_the_urls() -> None:
    for url in ("sentinel://:pw@a/1;sentinel://b/1", "sentinel://a/1;sentinel://:pw@b/1"):
        assert parse(f"{url}?master_name=m").password == Secret("pw")


def test_the_name_of_the_master_may_stand_in_the_url() -> None:
    for url in ("sentinel://a/1?master_name=m;sentinel://b/1", "sentinel://a/1?master_name=m"):
        found = parse(url)
        assert (found.db, found.sentinels and found.sentinels.master) == (1, "m")


def test_sentinels_have_a_login_and_tls_of_their_own() -> None:
    kwargs = {"username": "s", "password": 1234, "ssl": True, "ssl_ca_certs": "/ca"}
    found = parse("sentinel://a?master_name=m", sentinel_kwargs=kwargs, min_other_sentinels=2)
    assert found.tls is None
    assert found.sentinels is not None
    assert found.sentinels.min_others == 2
    (one,) = found.sentinels.addresses
    assert (one.username, one.password) == ("s", Secret("1234"))
    assert one.tls is not None
    assert (one.tls.verify, one.tls.ca_certs) == (ssl.CERT_REQUIRED, "/ca")
    both = parse("sentinel://a?master_name=m", ssl={"ssl_cert_reqs": "none"})
    assert both.tls is not None
    assert both.sentinels is not None
    assert both.sentinels.addresses[0].tls is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sentinel_kwargs": "hush"}, "sentinel_kwargs is not a mapping"),
        ({"min_other_sentinels": "two"}, "min_other_sentinels is not a number"),
    ],
)
def test_options_of_sentinels_that_make_no_sense_are_refused(
    options: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        parse("sentinel://a?master_name=m", **options)
    assert says in refused.value.says
    assert "hush" not in str(refused.value)


async def test_connecting_asks_nothing_of_the_broker_yet() -> None:
    broker = await connect(Secret("redis://:pw@127.0.0.1:1/2"), {}, clock=SystemClock())
    assert broker.address == "redis://:***@127.0.0.1:1/2"
    assert broker.identity == "redis 127.0.0.1:1 db=2 prefix=''"
    await broker.close()
