package io.prinz.enricher.values;

/** A row that was checked, in the form in which it travels. */
public final class Row {
  final Shape shape;
  final Object[] values;

  Row(Shape shape, Object[] values) {
    this.shape = shape;
    this.values = values;
  }

  /** With which rows it may travel. */
  public Shape shape() {
    return shape;
  }
}
