"""Signatures, checked by the standard's own library."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from pipelines.webhooks.signing import make_secret, sign

BODY = b'{"type":"job.succeeded","timestamp":"2026-11-25T03:00:00Z","data":{"id":"x"}}'


def headers(signature: str, message_id: str = "msg-1", timestamp: int | None = None) -> dict[str, str]:
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp or int(time.time())), "webhook-signature": signature}


def test_a_secret_is_of_the_standard_s_form_and_never_the_same():
    made = {make_secret() for _ in range(100)}

    assert len(made) == 100
    assert all(secret.startswith("whsec_") and 24 <= len(base64.b64decode(secret.removeprefix("whsec_"))) <= 64 for secret in made)


def test_the_standard_s_library_agrees():
    secret, now = make_secret(), int(time.time())

    assert sign([secret], "msg-1", now, BODY) == Webhook(secret).sign("msg-1", datetime.fromtimestamp(now, UTC), BODY.decode())
    assert Webhook(secret).verify(BODY, headers(sign([secret], "msg-1", now, BODY)))


def test_either_of_two_secrets_is_enough():
    old, new, now = make_secret(), make_secret(), int(time.time())

    signature = sign([new, old], "msg-1", now, BODY)

    assert len(signature.split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(BODY, headers(signature))
    with pytest.raises(WebhookVerificationError):
        Webhook(make_secret()).verify(BODY, headers(signature))


def test_a_change_of_any_byte_is_found():
    secret, now = make_secret(), int(time.time())
    signature = sign([secret], "msg-1", now, BODY)
    oracle = Webhook(secret)

    for place in range(len(BODY)):
        changed = BODY[:place] + bytes([BODY[place] ^ 1]) + BODY[place + 1 :]
        with pytest.raises(WebhookVerificationError):
            oracle.verify(changed, headers(signature, timestamp=now))
    for wrong in (headers(signature, "msg-2", now), headers(signature, timestamp=now + 1)):
        with pytest.raises(WebhookVerificationError):
            oracle.verify(BODY, wrong)


def test_an_old_message_sent_again_by_somebody_else_is_refused():
    secret, then = make_secret(), int(time.time()) - 600

    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(secret).verify(BODY, headers(sign([secret], "msg-1", then, BODY), timestamp=then))
