/**
 * Finds and scores models by a prinz-enricher service: rows of many callers go together, and come back one by one.
 */
package io.prinz.enricher.client;
