"""What S3 says, as errors that name the object, the cause and the next command: one class a cause. None holds a secret."""

from __future__ import annotations

from typing import Any

from flows.errors import KappaError, UsageError

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "403"}
_OTHER_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


class UrlInvalid(UsageError):
    """An URL that is not s3://bucket/key."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"{url} cannot be used", cause=cause, next_step="write s3://bucket/prefix, or a path")


class ObjectStoreFailed(KappaError, OSError):
    """S3 refused or did not answer. An OSError too: whether what was asked for has happened is unknown."""


class Unreachable(ObjectStoreFailed):
    """No answer, or a fault of the server's."""

    def __init__(self, url: str, endpoint: str, cause: str) -> None:
        super().__init__(
            f"{url} cannot be reached",
            cause=f"{endpoint}: {cause}",
            next_step="see that AWS_ENDPOINT_URL is right and its server runs; then the command again",
        )


class BucketMissing(ObjectStoreFailed):
    """There is no such bucket."""

    def __init__(self, bucket: str, url: str, endpoint: str) -> None:
        super().__init__(
            f"no bucket {bucket} for {url}",
            cause=f"{endpoint} does not know it",
            next_step=f"make it (aws s3 mb s3://{bucket}), or correct it",
        )


class AccessDenied(ObjectStoreFailed):
    """There are no credentials, or they may not do this."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"access to {url} is denied", cause=cause, next_step=f"set {_CREDENTIALS}, with the right to read, write and list")


class RegionWrong(ObjectStoreFailed):
    """The bucket lies in another region."""

    def __init__(self, url: str, region: str, wanted: str) -> None:
        super().__init__(
            f"{url} is not in region {region}",
            cause=f"the bucket is in {wanted or 'another one'}",
            next_step=f"set AWS_REGION={wanted or 'the region of the bucket'}",
        )


class ObjectChanged(ObjectStoreFailed):
    """An object was replaced while it was being read."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} changed while it was being read", cause="someone wrote to it", next_step="run the command again")


class Refused(ObjectStoreFailed):
    """Any other answer."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(f"{url} was refused", cause=cause, next_step="correct the URL or AWS's settings; then the command again")


class EndpointRefused(KappaError):
    """The settings name an endpoint that kappa does not use."""

    def __init__(self, endpoint: str, cause: str, next_step: str) -> None:
        super().__init__(f"the S3 endpoint {endpoint} is not used", cause=cause, next_step=next_step)


class SettingsUnusable(KappaError):
    """AWS's own settings cannot be read: a profile that is not there, a file that is not as it must be."""

    def __init__(self, cause: str) -> None:
        super().__init__("the settings of S3 cannot be used", cause=cause, next_step="correct the AWS_ variables or ~/.aws/config")


def explain(error: Exception, bucket: str, key: str, endpoint: str, region: str) -> OSError:
    """botocore's error as one of the above; FileNotFoundError when there is no such object."""
    url = f"s3://{bucket}/{key}"
    response: dict[str, Any] = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    text = f"{code}: {response.get('Error', {}).get('Message', '')}" if response else str(error)
    name = type(error).__name__
    found: OSError
    if code == "NoSuchBucket":
        found = BucketMissing(bucket, url, endpoint)
    elif code in {"NoSuchKey", "404"}:
        found = FileNotFoundError(f"{url} does not exist")
    elif code in _OTHER_REGION:
        headers = response["ResponseMetadata"].get("HTTPHeaders", {})
        found = RegionWrong(url, region, response["Error"].get("Region") or headers.get("x-amz-bucket-region", ""))
    elif code in _DENIED or status in {401, 403} or "Credential" in name or "Token" in name:
        found = AccessDenied(url, "no credentials were found" if name == "NoCredentialsError" else text)
    elif status == 412:
        found = ObjectChanged(url)
    elif not response or status in {408, 409, 429} or status >= 500:
        found = Unreachable(url, endpoint, text)
    else:
        found = Refused(url, text)
    return found
