"""What an error of a disk or of a server means, and trying again what may pass."""

import errno
import logging
from collections.abc import Callable
from random import uniform
from time import sleep
from typing import Any, TypeVar

from infinitedub.pipeline.storage.stores.store import Missing, Refused, Taken
from infinitedub.stages.errors import ConfigError, Transient

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 20.0

PASSING_STATUS = {408, 409, 425, 429}  # and every 5xx but 501; 409: S3's ConditionalRequestConflict
PASSING_CODES = {"RequestTimeout", "SlowDown", "Throttling", "InternalError", "ServiceUnavailable", "OperationAborted", "IncompleteBody"}
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


def insist(call: Callable[[], T], uri: str, attempts: int, *, creating: bool = False) -> T:
    """The call's result; what may pass is tried `attempts` times with growing random waits ("full jitter", AWS Architecture Blog, 2015).

    Raises Missing, Taken (only where a call is `creating`), Refused, ConfigError or Transient; what is none of these is a bug and comes
    through as it is.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return call()
        except Exception as error:
            meaning = meaning_of(error, uri)
            if meaning is None:
                raise
            if isinstance(meaning, Taken) and not creating:
                meaning = Transient(f"{uri}: the server refused on a condition that it was not given ({error})")
            if not isinstance(meaning, Transient) or attempt >= attempts:
                raise meaning from error
            wait = uniform(0, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt))
            log.warning("%s; attempt %d of %d, again in %.1f s", meaning, attempt, attempts, wait)
            sleep(wait)


def meaning_of(error: Exception, uri: str) -> Exception | None:
    """The error in the house's terms; None where it is not the storage's doing."""
    if isinstance(error, Missing | Taken | Refused | ConfigError | Transient):
        return error
    response = _response(error)
    if response is not None:
        return _meaning_of_response(response, error, uri)
    name = type(error).__name__
    module = type(error).__module__
    if isinstance(error, FileNotFoundError):
        return Missing(f"{uri} is not there")
    if isinstance(error, FileExistsError):
        return Taken(f"{uri} is there already")
    if isinstance(error, TimeoutError | ConnectionError):
        return Transient(f"{uri}: {name}: {error}")
    if module.startswith("botocore"):
        return _meaning_of_client(name, error, uri)
    if module.startswith("aiohttp"):  # fsspec's own HTTP filesystem, and the transport below s3fs
        status = getattr(error, "status", 0)
        return Refused(f"{uri}: {error}") if 400 <= status < 500 and status not in PASSING_STATUS else Transient(f"{uri}: {name}: {error}")
    if isinstance(error, OSError):
        if error.errno in REFUSED_ERRNO or isinstance(error, PermissionError):
            return Refused(f"{uri}: {error.strerror or error}")
        return Transient(f"{uri}: {error.strerror or error}")
    return None


def _response(error: Exception) -> dict[str, Any] | None:
    """What the S3 server answered; s3fs hides it behind the OSError it raises."""
    for link in (error, error.__cause__):
        response = getattr(link, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return response
    return None


def _meaning_of_response(response: dict[str, Any], error: Exception, uri: str) -> Exception:
    code = str(response["Error"].get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or (int(code) if code.isdigit() else 0)
    said = f"{status} {'' if code.isdigit() else code}: {response['Error'].get('Message') or error}"
    if code == "NoSuchBucket":
        return Refused(f"{uri}: the bucket does not exist")
    if code == "PreconditionFailed" or status == 412:  # Swift answers 412 without the details s3fs looks for
        return Taken(f"{uri} is there already")
    if code in PASSING_CODES or status in PASSING_STATUS or (status >= 500 and status != 501):
        return Transient(f"{uri}: the server answered {said}")
    if code in CREDENTIAL_CODES:
        return ConfigError(f"{uri}: the server does not accept the credentials ({said}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if code in REGION_CODES or status == 301:
        return ConfigError(f"{uri}: wrong region or endpoint ({said}); set storage.options.s3.region_name and endpoint_url")
    if code == "NoSuchUpload":  # completed, and the answer was lost; or aborted under our hands: begun anew, it is right in both cases
        return Transient(f"{uri}: the upload is over or was given up")
    if status == 404:
        return Missing(f"{uri} is not there")
    return Refused(f"{uri}: the server answered {said}")


def _meaning_of_client(name: str, error: Exception, uri: str) -> Exception:
    """Errors of botocore itself, before or instead of an answer."""
    if "Credentials" in name or "Token" in name:
        return ConfigError(f"{uri}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment of every node")
    if name in ("InvalidRegionError", "NoRegionError", "InvalidEndpointConfigurationError"):
        return ConfigError(f"{uri}: {error}; see storage.options.s3")
    if name == "ParamValidationError":  # such as a bucket name no bucket can have
        return Refused(f"{uri} is not a name that a bucket and an object can have")
    if name == "EndpointConnectionError":
        return Transient(f"{uri}: {error}; if it stays so, check storage.options.s3.endpoint_url")
    return Transient(f"{uri}: {error}")
