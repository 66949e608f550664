"""Many calls at once."""

import grpc

from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, value_pb2

WINE = "MLF-ElasticnetWineModel-1"
CALLS = 3_000


def test_thousands_at_once(service_channel: grpc.Channel) -> None:
    """Thousands of calls that arrive together on one connection are all answered, each with its own score."""
    score = service_channel.unary_unary(
        "/prinz.enricher.v1.EnricherService/Score",
        request_serializer=pb.ScoreRequest.SerializeToString,
        response_deserializer=pb.ScoreResponse.FromString,
    )
    requests = [
        pb.ScoreRequest(
            model=model_pb2.ModelRef(name=WINE),
            columns=value_pb2.ColumnBatch(
                num_rows=1,
                columns=[
                    value_pb2.Column(name=name, doubles=value_pb2.DoubleValues(values=[float(number)]))
                    for name in WINE_COLUMNS
                ],
            ),
            request_id=str(number),
        )
        for number in range(CALLS)
    ]

    answers = [call.result() for call in [score.future(request, timeout=100) for request in requests]]

    scores = [answer.columns.columns[0].doubles.values[0] for answer in answers]
    assert [answer.request_id for answer in answers] == [str(number) for number in range(CALLS)]
    # A linear model on equal columns: a caller with another's score would break the line.
    slope = (scores[-1] - scores[0]) / (CALLS - 1)
    assert all(abs(scores[0] + slope * number - score) < 1e-6 for number, score in enumerate(scores))
