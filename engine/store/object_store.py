"""Files in a bucket of an object store that speaks S3.

Content is encrypted and names are digests before they come here; objects get no metadata of their
own. Each request is signed with the SHA-256 of its body, so the store refuses one that arrived
otherwise. What the store may do wrong, and what is said then:

- it does not answer, is slow, answers 500 or 503, or the connection ends within a body: tried
  again a few times with growing pauses, then :class:`StoreUnavailable`
- it answers a byte now and then: each call ends after minutes, more for a large file
- it refuses the credentials, or there is no such bucket: :class:`StoreUnavailable`, too, because
  that says nothing about a file
- it takes a file and the answer is lost: the file may be there, whole, and belongs to nobody until
  somebody names it, so the sweep deletes it

Source: Amazon S3 API Reference, 2006-03-01 (conditional writes: PutObject, ``If-None-Match``).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NoReturn, TypeVar

import botocore.session
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from urllib3.exceptions import HTTPError

from engine.errors import FileUnreadable, NotFound, SettingsError, StorageError, StoreUnavailable
from engine.host import FileStore
from engine.settings import Secret
from engine.store.time_limit import TimeLimit, limit_connections

T = TypeVar("T")

#: Files over this go in parts: after a lost connection only one of them is sent again.
PART_BYTES = 32 * 1024 * 1024
#: Of one request, with those that are tried again; pauses between them double up to some seconds.
ATTEMPTS = 5
CONNECT_SECONDS = 4.0
READ_SECONDS = 15.0  # for the next bytes
#: For all that one call does, with what is tried again; and for each byte of a file besides.
CALL_SECONDS = 150.0
SLOWEST_BYTES = 100_000  # a second
CONNECTIONS = 32
PAGE = 1000  # names in one answer
#: What is done again here, because botocore does not: a body that ended early, and a write that
#: met another one of the same name.
AGAIN = 4
PAUSE_SECONDS = 0.25
_NO_ANSWER = (
    "The object store does not answer. Try again in a minute; if it goes on, check the store and"
    " MEDSEC_S3_ENDPOINT."
)
_ABSENT = ("NoSuchKey", "404", "NotFound")
_CONFLICT = ("ConditionalRequestConflict", "OperationAborted", "409")
_BUSY = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling")
log = logging.getLogger("medsec")


class _Interrupted(Exception):
    """To be done again."""


@dataclass(frozen=True)
class Address:
    """A bucket and a prefix in it.

    Args:
        url: ``s3://bucket/prefix``.
        endpoint: Empty for AWS.
        ca_file: At this path on every machine that works.
    """

    url: str
    endpoint: str
    region: str
    ca_file: str | None


class Bucket:
    """Files under a prefix of a bucket.

    Args:
        at: Which bucket, and where.
        credentials: Key id, key and token, where they do not come from this machine.

    Raises:
        SettingsError: There are no credentials, or they cannot be read. That there is such a
            bucket shows when it is used.
    """

    def __init__(self, at: Address, credentials: Sequence[Secret] = ()) -> None:
        self._at = at
        bucket, _, prefix = at.url.removeprefix("s3://").strip("/").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        #: Files over this are not read.
        self._most_bytes: float = math.inf
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            tcp_keepalive=True,
            # Else variables and files of other programs say where to, without TLS perhaps.
            ignore_configured_endpoint_urls=True,
            # Sums that the store must check are given explicitly; others' stores know no trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "addressing_style": "path" if at.endpoint else "auto",
                "payload_signing_enabled": True,
            },
        )
        try:
            session = botocore.session.get_session()
            if credentials:
                session.set_credentials(*credentials)
            self._credentials = session.get_credentials()
            if self._credentials is None:
                raise NoCredentialsError
            client = session.create_client(
                "s3",
                region_name=at.region,
                endpoint_url=at.endpoint or None,
                verify=at.ca_file,
                config=config,
            )
            limit_connections(client)
            self._client = client
        except (BotoCoreError, ValueError, OSError) as err:
            if isinstance(err, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
                raise SettingsError(
                    "There are no credentials for the object store. Set AWS_ACCESS_KEY_ID and"
                    " AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE."
                ) from err
            raise SettingsError(
                "The object store cannot be used. Check MEDSEC_S3_ENDPOINT, MEDSEC_S3_CA_FILE and"
                " the files with its credentials."
            ) from err

    def opener(self, elsewhere: bool) -> Callable[[], FileStore]:
        mine: tuple[Secret, ...] = ()
        # Other machines have their own. Those that are renewed here cannot be sent: a worker here
        # finds them as this process did.
        if not elsewhere and not isinstance(self._credentials, RefreshableCredentials):
            now = self._credentials.get_frozen_credentials()
            mine = tuple(Secret(part) for part in now[:3] if part)
        return partial(Bucket, self._at, mine)

    def put(self, name: str, data: bytes) -> bool:
        return self._write(name, data, {"IfNoneMatch": "*"})

    def replace(self, name: str, data: bytes) -> None:
        self._write(name, data, {})

    def get(self, name: str) -> bytes:
        return self._read(name)

    def versions(self, name: str, *, newest_first: bool = False) -> Iterator[bytes]:
        with contextlib.suppress(NotFound):
            yield self.get(name)

    def _read(self, name: str, **words: str) -> bytes:
        def read() -> bytes:
            answer = self._ask("get_object", name, **words)
            limit.extend(answer["ContentLength"] / SLOWEST_BYTES)
            with contextlib.closing(answer["Body"]) as body:
                if answer["ContentLength"] > self._most_bytes:
                    raise FileUnreadable(
                        "A stored file is too large for this machine's memory.", file=name
                    )
                try:
                    data: bytes = body.read()
                except (HTTPClientError, IncompleteReadError, HTTPError, OSError) as err:
                    _refuse_late(limit, err)
                    raise _Interrupted from err
            if len(data) != answer["ContentLength"]:
                _refuse_late(limit, None)
                raise _Interrupted
            return data

        with TimeLimit(CALL_SECONDS).counting() as limit:
            return _until_done(read)

    def delete(self, name: str) -> None:
        self._ask("delete_object", name)

    def delete_under(self, name: str) -> None:
        for inside in self.names(f"{name}/"):
            self.delete(inside)

    def under(self, name: str) -> FileStore:
        there = copy(self)  # with its client
        there._at = replace(self._at, url=f"{self._at.url.rstrip('/')}/{name}")
        there._prefix = f"{self._prefix}{name}/"
        return there

    def names(self, under: str = "") -> Iterator[str]:
        after: dict[str, str] = {}
        while True:
            page = self._ask(
                "list_objects_v2", None, Prefix=self._prefix + under, MaxKeys=PAGE, **after
            )
            for found in page.get("Contents", ()):
                yield found["Key"].removeprefix(self._prefix)
            if not page["IsTruncated"]:
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def age_seconds(self, name: str) -> float:
        try:
            answer = self._ask("head_object", name)
        except NotFound:  # deleted meanwhile
            return 0.0
        # Both by the store's clock: by ours, a young file could seem old.
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return max(0.0, (now - answer["LastModified"]).total_seconds())

    def clear_unfinished(self, older_than_seconds: float = 0.0) -> int:
        swept = 0
        after: dict[str, str] = {}
        while True:
            page = self._ask("list_multipart_uploads", None, Prefix=self._prefix, **after)
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for upload in page.get("Uploads", ()):
                if (now - upload["Initiated"]).total_seconds() >= older_than_seconds:
                    self._abort(upload["Key"].removeprefix(self._prefix), upload["UploadId"])
                    swept += 1
            if not page.get("IsTruncated"):
                return swept
            after = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def _write(self, name: str, data: bytes, condition: dict[str, str]) -> bool:
        """Returns False where the condition does not hold."""

        def write() -> bool:
            try:
                if len(data) > PART_BYTES:
                    self._write_parts(name, data, condition)
                else:
                    self._ask("put_object", name, Body=data, ChecksumSHA256=_sum(data), **condition)
            except _ConditionFailed:
                return False
            return True

        with TimeLimit(CALL_SECONDS + len(data) / SLOWEST_BYTES).counting():
            return _until_done(write)

    def _write_parts(self, name: str, data: bytes, condition: dict[str, str]) -> None:
        upload = self._ask("create_multipart_upload", name)["UploadId"]
        try:
            parts = []
            for number, at in enumerate(range(0, len(data), PART_BYTES), 1):
                part = data[at : at + PART_BYTES]
                sent = self._ask("upload_part", name, UploadId=upload, PartNumber=number, Body=part)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            self._ask(
                "complete_multipart_upload",
                name,
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                **condition,
            )
        except BaseException:
            with contextlib.suppress(StorageError, NotFound, _Interrupted):  # left to the sweep
                self._abort(name, upload)
            raise

    def _abort(self, name: str, upload: str) -> None:
        with contextlib.suppress(NotFound, _Interrupted):  # it has ended
            self._ask("abort_multipart_upload", name, UploadId=upload)

    def _ask(self, operation: str, name: str | None, **words: Any) -> Any:
        """One request, with botocore's retries; errors in our words."""
        if name is not None:
            words["Key"] = self._prefix + name
        with TimeLimit(CALL_SECONDS).counting() as limit:
            try:
                return getattr(self._client, operation)(Bucket=self._bucket, **words)
            except ClientError as err:
                _translate(err, operation, name)
            except (BotoCoreError, HTTPError, OSError) as err:
                _refuse_late(limit, err)
                raise StoreUnavailable(_said(err), operation=operation) from err


def _said(err: Exception) -> str:
    """What to say of a request that has no answer."""
    if isinstance(err, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        return "The credentials for the object store are gone. Check its files and the environment."
    if isinstance(err, SSLError):
        return (
            "The certificate of the object store is not trusted. Check MEDSEC_S3_CA_FILE and"
            " MEDSEC_S3_ENDPOINT."
        )
    return _NO_ANSWER


def _refuse_late(limit: TimeLimit, err: Exception | None) -> None:
    """Raises StoreUnavailable where the time is over: it was this side that broke off."""
    if limit.over:
        raise StoreUnavailable(
            "The object store answers too slowly. Try again later; if it goes on, check the store"
            " and the network."
        ) from err


class _ConditionFailed(Exception):
    """There is an object of this name."""


def _translate(err: ClientError, operation: str, name: str | None) -> NoReturn:
    code = str(err.response.get("Error", {}).get("Code", ""))
    status = int(err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    facts = {"operation": operation, "store_code": code, "status": status}
    if code in ("PreconditionFailed", "412"):
        raise _ConditionFailed from err
    # Of an upload that was completed, and whose answer was lost: done again, it meets its file.
    if code in _CONFLICT or code == "NoSuchUpload":
        raise _Interrupted from err
    if code in _ABSENT:
        raise NotFound("A stored file is missing. Restore it from a backup.", file=name) from err
    if code in _BUSY or status >= 500:
        raise StoreUnavailable(_NO_ANSWER, **facts) from err
    if code in ("BadDigest", "XAmzContentSHA256Mismatch", "InvalidDigest"):
        raise StoreUnavailable(
            "A file was changed on its way to the object store. Try again; if it goes on, check"
            " what lies between.",
            **facts,
        ) from err
    if code == "NoSuchBucket":
        raise StoreUnavailable(
            "There is no such bucket. Check MEDSEC_BLOBS and MEDSEC_BACKUPS.", **facts
        ) from err
    raise StoreUnavailable(
        "The object store refuses. Check its credentials, their rights on the bucket, and the"
        " clock of this machine.",
        **facts,
    ) from err


def _until_done(do: Callable[[], T]) -> T:
    """Do what can be interrupted, a few times.

    Raises:
        StoreUnavailable: It was interrupted each time.
    """
    for turn in range(AGAIN):
        try:
            return do()
        except _Interrupted as err:
            last = err
            time.sleep(PAUSE_SECONDS * 2**turn)
    raise StoreUnavailable(
        "The object store broke off within a file, again and again. Try again in a minute; if it"
        " goes on, check the store and the network."
    ) from last


def _sum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
