package io.prinz.enricher.values;

import java.util.List;
import java.util.stream.Collectors;

/** A row that does not fit the signature, with each of its faults. */
public final class InvalidRow extends Exception {
  private static final long serialVersionUID = 1L;
  private static final int TOLD = 5;

  private final transient List<Violation> violations;

  /**
   * Refuses a row.
   *
   * @param violations its faults, at least one
   * @param omitted how many more there are
   */
  public InvalidRow(List<Violation> violations, int omitted) {
    super(message(violations, omitted));
    this.violations = List.copyOf(violations);
  }

  /** Its faults, the first hundred of them. */
  public List<Violation> violations() {
    return violations == null ? List.of() : violations;
  }

  private static String message(List<Violation> violations, int omitted) {
    String told = violations.stream().limit(TOLD).map(Violation::toString).collect(Collectors.joining("; "));
    int more = Math.max(0, violations.size() - TOLD) + omitted;
    return more == 0 ? told : told + "; and " + more + " more";
  }
}
