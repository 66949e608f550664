package io.prinz.enricher.client;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.concurrent.TimeUnit;

/** A token, or the file that holds it, which is looked at again every second. */
final class Token {
  private static final long LOOK_NANOS = TimeUnit.SECONDS.toNanos(1);

  private final Path file;
  private String value;
  private FileTime written;
  private long looked;

  Token(String value, Path file) {
    this.value = value;
    this.file = file;
  }

  boolean isNone() {
    return file == null && value.isEmpty();
  }

  /** Gives the token; the last one that was read, where the file can't be read now. */
  synchronized String value() {
    if (file != null && (written == null || System.nanoTime() - looked > LOOK_NANOS)) {
      looked = System.nanoTime();
      try {
        FileTime now = Files.getLastModifiedTime(file);
        if (!now.equals(written)) {
          value = Files.readString(file, StandardCharsets.UTF_8).strip();
          written = now;
        }
      } catch (IOException gone) {
        // The service says that the token is missing or old, which is what the caller is to know.
        written = null;
      }
    }
    return value;
  }
}
