package io.prinz.enricher.values;

import java.util.regex.Pattern;

/** Where a value is: a field of the row, a property or key within it, an element of a list. Written as it is asked for. */
final class Path {
  private static final int LONGEST_NAME = 200;
  private static final Pattern PLAIN = Pattern.compile("[A-Za-z_][A-Za-z0-9_]*");

  private final Path parent;
  private final String name;
  private final int index;
  private final boolean key;

  private Path(Path parent, String name, int index, boolean key) {
    this.parent = parent;
    this.name = name;
    this.index = index;
    this.key = key;
  }

  static Path field(String name) {
    return new Path(null, name, -1, false);
  }

  Path element(int index) {
    return new Path(this, null, index, false);
  }

  Path property(String name) {
    return new Path(this, name, -1, false);
  }

  Path key(String name) {
    return new Path(this, name, -1, true);
  }

  @Override
  public String toString() {
    StringBuilder text = new StringBuilder();
    write(text);
    return text.toString();
  }

  private void write(StringBuilder text) {
    if (parent == null) {
      text.append(isPlain() ? name : quoted(name));
      return;
    }
    parent.write(text);
    if (name == null) {
      text.append('[').append(index).append(']');
    } else if (!key && isPlain()) {
      text.append('.').append(name);
    } else {
      text.append('[').append(quoted(name)).append(']');
    }
  }

  private boolean isPlain() {
    return name.length() <= LONGEST_NAME && PLAIN.matcher(name).matches();
  }

  private static String quoted(String name) {
    String cut = name.length() <= LONGEST_NAME ? name : name.substring(0, LONGEST_NAME) + "…";
    StringBuilder text = new StringBuilder("\"");
    for (int at = 0; at < cut.length(); at++) {
      char one = cut.charAt(at);
      if (one == '"' || one == '\\') {
        text.append('\\').append(one);
      } else if (Character.isISOControl(one) || Character.isSurrogate(one)) {
        text.append(String.format("\\u%04x", (int) one));
      } else {
        text.append(one);
      }
    }
    return text.append('"').toString();
  }
}
