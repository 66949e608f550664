/**
 * Values of the JVM into the columns of the wire, and back: exactly, or refused with a reason. Pure, without a connection.
 *
 * <p>The policy is the service's own: any number into a whole type where it survives exactly, a double into a float
 * rounded to the nearest, ISO-8601 text and every instant of java.time into a datetime; never text into a number, nor a
 * boolean into one. What this package refuses never leaves the JVM; what it takes, the service takes.
 */
package io.prinz.enricher.values;
