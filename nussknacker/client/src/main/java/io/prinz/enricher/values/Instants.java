package io.prinz.enricher.values;

import java.time.DateTimeException;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.time.ZonedDateTime;
import java.util.Date;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Dates and times as microseconds since 1970-01-01T00:00:00 UTC, which is what the wire holds. */
final class Instants {
  private static final long MILLION = 1_000_000L;
  private static final Pattern ISO =
      Pattern.compile(
          "([0-9]{4})-([0-9]{2})-([0-9]{2})"
              + "(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,18}))?)?"
              + "(?:([Zz])|([+-])([0-9]{2})(?::?([0-9]{2}))?)?)?");

  private Instants() {}

  /** An instant, apart from whole numbers. */
  static final class Micros {
    final long value;

    Micros(long value) {
      this.value = value;
    }
  }

  /**
   * Gives the instant of what Java has for dates and times; one without a zone is in UTC, a date is its midnight.
   *
   * @return the instant; null where the object is none
   * @throws Refused it is finer than a microsecond, or outside 64 bits of them
   */
  static Micros of(Object value) throws Refused {
    if (value instanceof LocalDateTime) {
      LocalDateTime local = (LocalDateTime) value;
      return micros(local.toEpochSecond(ZoneOffset.UTC), local.getNano());
    }
    if (value instanceof Instant) {
      return micros(((Instant) value).getEpochSecond(), ((Instant) value).getNano());
    }
    if (value instanceof ZonedDateTime) {
      return micros(((ZonedDateTime) value).toEpochSecond(), ((ZonedDateTime) value).getNano());
    }
    if (value instanceof OffsetDateTime) {
      return micros(((OffsetDateTime) value).toEpochSecond(), ((OffsetDateTime) value).getNano());
    }
    if (value instanceof LocalDate) {
      return micros(((LocalDate) value).atStartOfDay().toEpochSecond(ZoneOffset.UTC), 0);
    }
    // A java.sql.Date or Time is a day or an hour wherever the JVM happens to be, which is no instant.
    if (value instanceof Date && !value.getClass().getName().matches("java\\.sql\\.(Date|Time)")) {
      Instant instant = ((Date) value).toInstant();
      return micros(instant.getEpochSecond(), instant.getNano());
    }
    return null;
  }

  private static Micros micros(long seconds, int nanos) throws Refused {
    if (nanos % 1000 != 0) {
      throw new Refused(Refused.TOO_FINE);
    }
    try {
      // The least number of 64 bits is numpy's "not a time", which is no instant.
      long whole = Math.addExact(Math.multiplyExact(seconds, MILLION), nanos / 1000L);
      if (whole != Long.MIN_VALUE) {
        return new Micros(whole);
      }
    } catch (ArithmeticException tooFar) {
      throw new Refused(Refused.TOO_FAR);
    }
    throw new Refused(Refused.TOO_FAR);
  }

  /**
   * Reads an ISO-8601 date, or date and time; where it names no zone it is in UTC.
   *
   * @param text such as {@code 2026-11-23}, {@code 2026-11-23T14:05:06.25} or {@code 2026-11-23T14:05:06+02:00}
   * @throws Refused it is not of this form, or finer than a microsecond
   */
  static Micros parse(String text) throws Refused {
    Matcher found = ISO.matcher(text);
    if (!found.matches()) {
      throw new Refused(Refused.NOT_ISO);
    }
    String digits = found.group(7) == null ? "" : found.group(7);
    if (digits.length() > 6 && !digits.substring(6).chars().allMatch(one -> one == '0')) {
      throw new Refused(Refused.TOO_FINE);
    }
    int fraction = Integer.parseInt((digits + "000000").substring(0, 6));
    int offset = 60 * number(found.group(10)) + number(found.group(11));
    int year = number(found.group(1));
    if (number(found.group(11)) > 59 || offset >= 24 * 60 || year == 0) {
      throw new Refused(Refused.NOT_ISO);
    }
    try {
      LocalDateTime local =
          LocalDateTime.of(
              year,
              number(found.group(2)),
              number(found.group(3)),
              number(found.group(4)),
              number(found.group(5)),
              number(found.group(6)));
      long seconds = local.toEpochSecond(ZoneOffset.UTC);
      long shift = 60L * ("-".equals(found.group(9)) ? -offset : offset);
      return new Micros((seconds - shift) * MILLION + fraction);
    } catch (DateTimeException wrong) {
      throw new Refused(Refused.NOT_ISO);
    }
  }

  private static int number(String digits) {
    return digits == null ? 0 : Integer.parseInt(digits);
  }

  /** Gives the date and time in UTC that an instant is. */
  static LocalDateTime local(long micros) {
    long seconds = Math.floorDiv(micros, MILLION);
    int nanos = (int) Math.floorMod(micros, MILLION) * 1000;
    return LocalDateTime.ofEpochSecond(seconds, nanos, ZoneOffset.UTC);
  }
}
