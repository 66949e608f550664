package io.prinz.enricher.values;

import java.util.ArrayList;
import java.util.List;

/** The faults of a row, collected: the first hundred are told, all are counted. */
final class Faults {
  private static final int MOST = 100;

  private final List<Violation> violations = new ArrayList<>();
  private int omitted;

  void add(Path path, String description) {
    if (violations.size() < MOST) {
      violations.add(new Violation(path.toString(), description));
    } else {
      omitted++;
    }
  }

  /** Ends here if there are faults. */
  void throwAny() throws InvalidRow {
    if (!violations.isEmpty()) {
      throw new InvalidRow(violations, omitted);
    }
  }
}
