package io.prinz.enricher.client;

import io.prinz.enricher.v1.ScoreRequest;
import io.prinz.enricher.v1.ScoreResponse;
import io.prinz.enricher.values.Inputs;
import io.prinz.enricher.values.InvalidAnswer;
import io.prinz.enricher.values.Outputs;
import io.prinz.enricher.values.Row;
import io.prinz.enricher.values.Shape;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** What the rows of a lane have in common: the model and what is asked of it, and their shape. */
final class Form {
  private final ScoreRequest head;
  private final Inputs inputs;
  private final Outputs outputs;
  private final Shape shape;

  /**
   * Puts it together.
   *
   * @param head the request without its rows
   */
  Form(ScoreRequest head, Inputs inputs, Outputs outputs, Shape shape) {
    this.head = head;
    this.inputs = inputs;
    this.outputs = outputs;
    this.shape = shape;
  }

  ScoreRequest request(List<Call> calls) {
    List<Row> rows = new ArrayList<>(calls.size());
    calls.forEach(call -> rows.add(call.row));
    return head.toBuilder().setColumns(inputs.encode(shape, rows)).build();
  }

  List<Map<String, Object>> read(ScoreResponse response, int rows) throws EnricherException {
    try {
      return outputs.read(response.getColumns(), rows);
    } catch (InvalidAnswer unreadable) {
      throw new EnricherException("INTERNAL", "", "the answer is not what was asked for: " + unreadable.getMessage());
    }
  }
}
