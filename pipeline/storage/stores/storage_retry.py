"""Translates the errors of disks and servers into the product's exceptions, and retries those that may pass."""

import errno
import logging
from collections.abc import Callable
from time import sleep
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from infinitedub.pipeline.storage.stores.store import AccessRefused, AlreadyExists, NotFound
from infinitedub.stages.errors import ConfigError, Transient

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 1.0  # upper bound of the first random wait; it doubles with each attempt
LONGEST_WAIT_SECONDS = 20.0

TRANSIENT_STATUS = {408, 409, 425, 429}  # and every 5xx except 501; 409: S3's ConditionalRequestConflict
TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "Throttling", "InternalError", "ServiceUnavailable", "OperationAborted", "IncompleteBody"}
CREDENTIAL_CODES = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "AccountProblem",
    "NotSignedUp",
}
REGION_CODES = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
REFUSED_ERRNO = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTSUP,
}


class UploadEnded(Transient):
    """The server does not know a multipart upload any more: it was completed and the reply was lost, or it was aborted. Both allow a new upload."""


def retry_storage_call(call: Callable[[], T], uri: str, attempts: int, *, creating: bool = False) -> T:
    """The call's result. A Transient error is retried after a random wait ("full jitter", AWS Architecture Blog, 2015), `attempts` calls in total.

    Raises NotFound, AlreadyExists (only if `creating`), AccessRefused, ConfigError or Transient. An exception that is none of these is a bug and
    is raised unchanged.
    """

    def translated() -> T:
        try:
            return call()
        except Exception as error:
            meaning = translate_error(error, uri)
            if meaning is None or meaning is error:
                raise
            if isinstance(meaning, AlreadyExists) and not creating:
                meaning = Transient(f"{uri}: the server reports a failed condition, but the request had none ({error})")
            raise meaning from error

    def log_retry(state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        wait = 0.0 if state.next_action is None else state.next_action.sleep
        log.warning("%s; attempt %d of %d, next in %.1f s", error, state.attempt_number, attempts, wait)

    retrying = Retrying(
        retry=retry_if_exception_type(Transient),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS),
        before_sleep=log_retry,
        sleep=sleep,
        reraise=True,
    )
    return retrying(translated)


def translate_error(error: Exception, uri: str) -> Exception | None:
    """The product's exception for a library's error; None if the storage did not cause it."""
    if isinstance(error, NotFound | AlreadyExists | AccessRefused | ConfigError | Transient):
        return error
    response = _response(error)
    if response is not None:
        return _translate_response(response, error, uri)
    name = type(error).__name__
    module = type(error).__module__
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{uri} does not exist")
    if isinstance(error, FileExistsError):
        return AlreadyExists(f"{uri} exists already")
    if isinstance(error, TimeoutError | ConnectionError):
        return Transient(f"{uri}: {name}: {error}")
    if module.startswith("botocore"):
        return _translate_client_error(name, error, uri)
    if module.startswith("aiohttp"):  # the HTTP client of s3fs and of WebStore
        status = getattr(error, "status", 0)
        permanent = 400 <= status < 500 and status not in TRANSIENT_STATUS
        return AccessRefused(f"{uri}: {error}") if permanent else Transient(f"{uri}: {name}: {error}")
    if isinstance(error, OSError):
        if error.errno in REFUSED_ERRNO or isinstance(error, PermissionError):
            return AccessRefused(f"{uri}: {error.strerror or error}")
        return Transient(f"{uri}: {error.strerror or error}")
    return None


def _response(error: Exception) -> dict[str, Any] | None:
    """The response of the S3 server; s3fs hides it behind the OSError it raises."""
    for link in (error, error.__cause__):
        response = getattr(link, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return response
    return None


def _translate_response(response: dict[str, Any], error: Exception, uri: str) -> Exception:
    code = str(response["Error"].get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or (int(code) if code.isdigit() else 0)
    answer = f"{status} {'' if code.isdigit() else code}: {response['Error'].get('Message') or error}"
    if code == "NoSuchBucket":
        return AccessRefused(f"{uri}: the bucket does not exist")
    if code == "PreconditionFailed" or status == 412:  # Swift answers 412 without the details s3fs looks for
        return AlreadyExists(f"{uri} exists already")
    if code in TRANSIENT_CODES or status in TRANSIENT_STATUS or (status >= 500 and status != 501):
        return Transient(f"{uri}: the server answered {answer}")
    if code in CREDENTIAL_CODES:
        return ConfigError(f"{uri}: the server does not accept the credentials ({answer}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if code in REGION_CODES or status == 301:
        return ConfigError(f"{uri}: wrong region or endpoint ({answer}); set storage.options.s3.region_name and storage.options.s3.endpoint_url")
    if code == "NoSuchUpload":
        return UploadEnded(f"{uri}: the server knows no such upload; it was completed or aborted")
    if status == 404:
        return NotFound(f"{uri} does not exist")
    return AccessRefused(f"{uri}: the server answered {answer}")


def _translate_client_error(name: str, error: Exception, uri: str) -> Exception:
    """Errors of botocore itself, raised before or in place of a response."""
    if "Credentials" in name or "Token" in name:
        return ConfigError(f"{uri}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of every node")
    if name in ("InvalidRegionError", "NoRegionError", "InvalidEndpointConfigurationError"):
        return ConfigError(f"{uri}: {error}; check storage.options.s3.region_name and storage.options.s3.endpoint_url")
    if name == "ParamValidationError":  # such as an invalid bucket name
        return AccessRefused(f"{uri} is not a valid name of a bucket and an object")
    if name == "EndpointConnectionError":
        return Transient(f"{uri}: {error}; if this persists, check storage.options.s3.endpoint_url")
    return Transient(f"{uri}: {error}")
