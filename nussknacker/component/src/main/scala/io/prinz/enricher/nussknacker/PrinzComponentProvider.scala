package io.prinz.enricher.nussknacker

import com.typesafe.config.Config
import pl.touk.nussknacker.engine.api.component.{ComponentDefinition, ComponentProvider, NussknackerVersion}
import pl.touk.nussknacker.engine.api.process.ProcessObjectDependencies

/** Enrichers that score by the models of a prinz-enricher service; `providerType: "prinzEnricher"`. */
class PrinzComponentProvider extends ComponentProvider {

  override def providerName: String = "prinzEnricher"

  /** Asks the service for its models, and writes them into the configuration: what a deployed scenario goes by. */
  override def resolveConfigForExecution(config: Config): Config =
    config.withValue(Definitions.Key, Definitions.discover(ProviderSettings.read(config)).root())

  override def create(config: Config, dependencies: ProcessObjectDependencies): List[ComponentDefinition] = {
    val settings = ProviderSettings.read(config)
    val definitions =
      if (config.hasPath(Definitions.Key)) Definitions.read(config.getConfig(Definitions.Key))
      else Definitions(Nil, "they were not asked for")
    if (settings.perModel) {
      definitions.models.filter(_.signature(Choice.Default).isDefined).map { model =>
        ComponentDefinition(model.name, new ModelEnricher(settings, definitions, Some(model)))
      }
    } else {
      List(ComponentDefinition(settings.name, new ModelEnricher(settings, definitions, None)))
    }
  }

  override def isCompatible(version: NussknackerVersion): Boolean =
    // The API of a dynamic enricher is marked as experimental; this is what it was built and tried with.
    version.value.getMajor == 1 && version.value.getMinor >= 18

}
