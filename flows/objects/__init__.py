"""S3 and what speaks its protocol: one account, the clients made from it, paths, reading. Imports boto3 only when a path is used."""

from flows.objects.path import Place, S3Path, is_url, parse_url

__all__ = ["Place", "S3Path", "is_url", "parse_url"]
