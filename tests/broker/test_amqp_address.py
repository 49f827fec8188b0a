"""URLs of RabbitMQ, read as kombu reads them."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import parse_url

from celery_ops.broker import connect
from celery_ops.broker.rabbit import address
from celery_ops.config.secret import Secret
from celery_ops.errors import UsageError
from celery_ops.fleet.clock import SystemClock

if TYPE_CHECKING:
    from celery_ops.broker.rabbit.address import AmqpAddress


def parse(url: str, **options: object) -> AmqpAddress:
    return address.parse(Secret(url), options)


@pytest.mark.parametrize(
    ("url", "shown", "vhost"),
    [
        ("amqp://", "amqp://guest:***@127.0.0.1:5672/%2F", "/"),
        ("amqp://h", "amqp://guest:***@h:5672/%2F", "/"),
        ("amqp://h//", "amqp://guest:***@h:5672/%2F", "/"),
        ("amqp://h/%2F", "amqp://guest:***@h:5672/%2F", "/"),
        ("pyamqp://ann:pw@H:1/shop", "amqp://ann:***@h:1/shop", "shop"),
        ("amqp://a%40b:p%2Fw@h/x%2Fy", "amqp://a%40b:***@h:5672/x%2Fy", "x/y"),
        ("amqps://h", "amqps://guest:***@h:5671/%2F", "/"),
        ("amqp://[::1]:7/v", "amqp://guest:***@[::1]:7/v", "v"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str, vhost: str) -> None:
    assert str(parse(url)) == shown
    assert parse(url).vhost == vhost


_WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@given(_WORDS, _WORDS, _WORDS, st.integers(1, 65535), _WORDS)
def test_a_url_is_read_as_kombu_reads_it(
    user: str, password: str, host: str, port: int, vhost: str
) -> None:
    url = f"amqp://{user}:{password}@{host}:{port}/{vhost}"
    ours, kombus = parse(url), parse_url(url)
    assert (ours.host, ours.port) == (kombus["hostname"], kombus["port"])
    assert (ours.username, ours.password.reveal()) == (kombus["userid"], kombus["password"])
    assert ours.vhost == kombus["virtual_host"]
    assert (
        password not in repr(ours).replace(user, "").replace(vhost, "").replace(host.lower(), "")
        or len(password) < 4
    )


def test_what_a_fleet_has_kept_from_redis_is_let_pass() -> None:
    assert parse("amqp://h", visibility_timeout=43200, confirm_publish=True).host == "h"


def test_tls_is_as_py_amqp_has_it() -> None:
    assert parse("amqp://h").tls is None
    bare = parse("amqps://h").tls
    assert bare is not None
    assert (bare.verify, bare.ca_certs, bare.server_hostname) == (ssl.CERT_REQUIRED, None, None)
    full = parse(
        "amqp://h",
        ssl={"ca_certs": "/ca", "cert_reqs": ssl.CERT_NONE, "server_hostname": "rabbit"},
    ).tls
    assert full is not None
    assert (full.verify, full.ca_certs, full.server_hostname) == (ssl.CERT_NONE, "/ca", "rabbit")
    prefixed = parse("amqps://h?ssl_ca_certs=/ca&ssl_cert_reqs=required").tls
    assert prefixed is not None
    assert (prefixed.ca_certs, prefixed.verify) == ("/ca", ssl.CERT_REQUIRED)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("amqp://ann:hun/ter2@h/0", {}, "cannot be read"),
        ("amqp://h:99999999/0", {}, "cannot be read"),
        ("amqp://h", {"login_metod": "PLAIN"}, "is not a broker option of RabbitMQ"),
        ("amqp://h", {"login_method": "GSSAPI"}, "login method GSSAPI is not supported"),
        ("amqp://h", {"ssl": {"ca_cert": "/ca"}}, "'ca_cert' is not a setting of TLS"),
        ("amqp://h", {"control_exchange": 7}, "control_exchange is not a str"),
    ],
)
async def test_what_cannot_be_used_is_refused_in_plain_words(
    url: str, options: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError) as refused:
        await connect(Secret(url), options, clock=SystemClock())
    assert says in refused.value.says
    assert "hun" not in str(refused.value)
    assert "ter2" not in str(refused.value)


@pytest.mark.parametrize("management", ["rabbit:15672", "ftp://h", "http://:pw@h:x1"])
async def test_a_management_url_that_is_none_is_refused(management: str) -> None:
    with pytest.raises(UsageError, match="management URL") as refused:
        await connect(Secret("amqp://h"), {}, clock=SystemClock(), management=Secret(management))
    assert "pw" not in refused.value.says
    assert refused.value.fix


async def test_connecting_asks_nothing_of_the_broker_yet() -> None:
    broker = await connect(Secret("amqp://ann:pw@127.0.0.1:1/v"), {}, clock=SystemClock())
    assert broker.address == "amqp://ann:***@127.0.0.1:1/v"
    assert broker.identity == "rabbitmq 127.0.0.1:1 vhost='v'"
    await broker.close()
