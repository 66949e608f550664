package io.prinz.enricher.values;

import java.util.Objects;

/** One fault of a row: where, and what is wrong with the value there, without the value itself. */
public final class Violation {
  private final String field;
  private final String description;

  /**
   * Tells a fault.
   *
   * @param field where, such as {@code alcohol} or {@code orders[3].price}
   * @param description what is wrong, as the rest of a sentence, such as {@code is text; wanted double}
   */
  public Violation(String field, String description) {
    this.field = Objects.requireNonNull(field);
    this.description = Objects.requireNonNull(description);
  }

  /** Where, such as {@code alcohol} or {@code orders[3].price}. */
  public String field() {
    return field;
  }

  /** What is wrong, such as {@code is text; wanted double}. */
  public String description() {
    return description;
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Violation
        && field.equals(((Violation) other).field)
        && description.equals(((Violation) other).description);
  }

  @Override
  public int hashCode() {
    return Objects.hash(field, description);
  }

  @Override
  public String toString() {
    return field + " " + description;
  }
}
