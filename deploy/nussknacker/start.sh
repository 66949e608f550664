#!/bin/sh
# Nussknacker's designer. It does not start with settings of a component provider that no jar has, so those of
# prinz-enricher count only where there is a jar in deploy/nussknacker/components.
set -eu

CONFIG_FILE=/opt/prinz/designer.conf
set -- /opt/nussknacker/components/prinz/*.jar
if [ -e "$1" ]; then
  # Later files win over earlier ones.
  CONFIG_FILE="$CONFIG_FILE,/opt/prinz/prinz-enricher.conf"
fi
export CONFIG_FILE

exec /opt/nussknacker/bin/nussknacker-entrypoint.sh
