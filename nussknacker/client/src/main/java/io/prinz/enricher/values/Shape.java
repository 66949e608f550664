package io.prinz.enricher.values;

import java.util.BitSet;
import java.util.List;

/**
 * What rows must have in common to travel together, so that a model sees of each the same as if it came alone: which
 * columns they have, and which of them are null. A column of whole numbers is another one to a model as soon as one of
 * them is missing.
 */
public final class Shape {
  private final List<String> names;
  private final BitSet nulls;
  private final int hash;

  Shape(List<String> names, BitSet nulls) {
    this.names = names;
    this.nulls = nulls;
    this.hash = 31 * names.hashCode() + nulls.hashCode();
  }

  /** The columns, in their order. */
  List<String> names() {
    return names;
  }

  @Override
  public boolean equals(Object other) {
    return this == other
        || other instanceof Shape && names.equals(((Shape) other).names) && nulls.equals(((Shape) other).nulls);
  }

  @Override
  public int hashCode() {
    return hash;
  }
}
