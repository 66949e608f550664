"""Errors as `google.rpc.Status`."""

import inspect

import pytest
from google.rpc import error_details_pb2

from prinz_enricher import errors
from prinz_enricher.service.status import MAX_STATUS_BYTES, to_status

EVERY = [
    errors.ModelNotFound("wine"),
    errors.VersionNotFound("wine", "3"),
    errors.AliasNotFound("wine", "champion"),
    errors.InvalidInput([errors.Violation('columns["a"][0]', "is no number")]),
    errors.InvalidPageToken(),
    errors.InvalidFilter("has no value"),
    errors.InvalidRequest("model.name", "is required"),
    errors.BatchTooLarge(3, 2),
    errors.DecodedTooLarge(2),
    errors.SignatureChanged("wine", "3", "0" * 32),
    errors.ModelLoadFailed("wine", "3", "no such file"),
    errors.LoaderNotAllowed("wine", "3", "mlflow.spark"),
    errors.ModelLoading("wine", "3", 1.5),
    errors.RegistryUnavailable("http://mlflow", "it is down"),
    errors.UpstreamUnavailable("http://models", "it is down"),
    errors.AuditUnavailable(),
    errors.ShuttingDown(),
    errors.TokenMissing(),
    errors.TokenInvalid("it has expired"),
    errors.ModelForbidden("wine", "score"),
    errors.QuotaExceeded("scenarios", "rows_per_second", 100, 0.5),
    errors.Overloaded("the queue is full"),
    errors.MessageTooLarge("answer", 3, 2),
    errors.DeadlineExceeded("queue"),
    errors.ResyncRequired(),
    errors.NotImplementedYet("ScoreStream"),
    errors.InternalError("abc"),
    errors.ModelError("wine", "3", "ValueError", "abc"),
    errors.OutputMismatch("wine", "3", "too few rows"),
]

DETAIL = {
    "NOT_FOUND": error_details_pb2.ResourceInfo,
    "FAILED_PRECONDITION": error_details_pb2.ResourceInfo,
    "INVALID_ARGUMENT": error_details_pb2.BadRequest,
    "UNAVAILABLE": error_details_pb2.RetryInfo,
    "PERMISSION_DENIED": error_details_pb2.ResourceInfo,
    "QUOTA_EXCEEDED": error_details_pb2.QuotaFailure,
    "OVERLOADED": error_details_pb2.RetryInfo,
}


def test_the_list_is_complete() -> None:
    """Every error of the tree that can be raised is in the list above."""
    abstract = {
        "_OfVersion",
        "NotFoundError",
        "InvalidArgumentError",
        "_OneField",
        "FailedPreconditionError",
        "UnavailableError",
        "UnauthenticatedError",
    }
    kinds = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.EnricherError) and name not in abstract | {"EnricherError"}
    }

    assert {type(error).__name__ for error in EVERY} == kinds


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.reason)
def test_details_of_the_contract(error: errors.EnricherError) -> None:
    """Each error carries an ErrorInfo, and the detail that the contract names for its code."""
    status = to_status(error)
    info = error_details_pb2.ErrorInfo()

    assert status.code == error.code
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (error.reason, "prinz.enricher")
    assert all(value in status.message for key, value in info.metadata.items() if key in {"model", "version", "rows"})
    if wanted := DETAIL.get(error.code.name) or DETAIL.get(error.reason):
        assert any(detail.Is(wanted.DESCRIPTOR) for detail in status.details)


def test_quota_names_the_caller_and_the_time() -> None:
    """A caller over its quota is told which quota, whose, and when to try again."""
    status = to_status(errors.QuotaExceeded("scenarios", "rows_per_second", 100, 0.5))

    failure, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(failure)
    assert status.details[2].Unpack(retry)
    assert [(found.subject, found.description) for found in failure.violations] == [
        ("principal:scenarios", "rows_per_second")
    ]
    assert retry.retry_delay.ToMilliseconds() == 500


def test_status_fits_into_trailers() -> None:
    """However many faults there are and however long the names, the status is small, and the rest is counted."""
    faults = [errors.Violation(f'columns["{"ü" * 500}"][{i}]', "is no whole number") for i in range(5_000)]

    status = to_status(errors.InvalidInput(faults))

    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status.details[0].Unpack(info)
    status.details[1].Unpack(bad_request)
    assert status.ByteSize() <= MAX_STATUS_BYTES
    assert len(bad_request.field_violations) + int(info.metadata["omitted"]) == 5_000
    assert to_status(errors.ModelNotFound("ü" * 10_000)).ByteSize() <= MAX_STATUS_BYTES
