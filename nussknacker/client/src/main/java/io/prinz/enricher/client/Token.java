package io.prinz.enricher.client;

import io.grpc.CallCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** The bearer token of each call: supplied, or of a file, which is read again every second. */
final class Token extends CallCredentials {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final long READ_NANOS = TimeUnit.SECONDS.toNanos(1);

  private final Path file;
  private final Supplier<String> supplier;
  private String read = "";
  private long readAt;

  Token(Path file) {
    this.file = file;
    this.supplier = null;
  }

  Token(Supplier<String> supplier) {
    this.file = null;
    this.supplier = supplier;
  }

  @Override
  public void applyRequestMetadata(RequestInfo call, Executor executor, MetadataApplier applier) {
    Metadata headers = new Metadata();
    try {
      headers.put(AUTHORIZATION, "Bearer " + value());
    } catch (IOException | RuntimeException none) {
      String why = none.getMessage() == null ? none.toString() : none.getMessage();
      applier.fail(Status.UNAUTHENTICATED.withDescription("there is no token to send: " + why));
      return;
    }
    applier.apply(headers);
  }

  /** Gives the token; never with an error that has it, since errors end up in logs. */
  String value() throws IOException {
    String value = supplier == null ? read() : String.valueOf(supplier.get()).strip();
    if (value.isEmpty()) {
      throw new IOException(file == null ? "the token is empty" : file + " is empty");
    }
    if (!value.chars().allMatch(letter -> letter > ' ' && letter < 127)) {
      throw new IOException("the token has blanks, or characters that a header can't hold");
    }
    return value;
  }

  private synchronized String read() throws IOException {
    if (read.isEmpty() || System.nanoTime() - readAt > READ_NANOS) {
      readAt = System.nanoTime();
      try {
        String found = Files.readString(file, StandardCharsets.UTF_8).strip();
        // A file that is being written is empty for a moment.
        read = found.isEmpty() ? read : found;
      } catch (IOException unreadable) {
        if (read.isEmpty()) {
          throw new IOException(file + " can't be read", unreadable);
        }
      }
    }
    return read;
  }
}
