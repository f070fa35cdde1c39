"""What every driver holds against a listing: it must be whole, and must show nothing outside the folder that was asked for.

A clean deletes what a listing shows, and believes that a path is empty when it shows nothing.
"""

from backup_manager.errors import StorageError


def relative(key: str, base: str, url: str) -> str:
    """*key* inside the folder *base*. A store that lists anything else is not to be trusted with a deletion.

    >>> relative("p/q/a", "p/q/", "s3://b/p/q")
    'a'
    """
    if not key.startswith(base):
        raise StorageError(
            f"{url}: the store listed {key[:200]!r}, which is outside",
            reason="ForeignListing",
            hint="Nothing was deleted. Is there a proxy in between that rewrites requests or answers?",
        )
    return key[len(base) :]


def cut_short(url: str, service: str, field: str, detail: str = "") -> StorageError:
    """The error for an answer that ends too early or comes from something else than *service*."""
    return StorageError(
        f"{url}: the answer is cut short, or not from {service} at all{detail and f' ({detail})'}",
        reason="TruncatedListing",
        hint=f"Is {field} the address of the {service} service itself, and no proxy in between cutting answers?",
    )
