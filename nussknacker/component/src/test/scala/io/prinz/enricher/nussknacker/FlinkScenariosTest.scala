package io.prinz.enricher.nussknacker

import cats.data.Validated.{Invalid, Valid}
import com.typesafe.config.{Config, ConfigFactory}
import io.prinz.enricher.client.ServiceProcess
import org.junit.jupiter.api.Assertions.{assertEquals, assertTrue, fail}
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable
import org.junit.jupiter.api.{AfterAll, BeforeAll, Test, TestInstance, Timeout}
import pl.touk.nussknacker.engine.api.namespaces.NamingStrategy
import pl.touk.nussknacker.engine.api.process.ProcessObjectDependencies
import pl.touk.nussknacker.engine.build.ScenarioBuilder
import pl.touk.nussknacker.engine.flink.test.{FlinkMiniClusterHolder, FlinkTestConfiguration}
import pl.touk.nussknacker.engine.flink.util.test.FlinkTestScenarioRunner._
import pl.touk.nussknacker.engine.spel.SpelExtension._
import pl.touk.nussknacker.engine.util.test.{RunListResult, TestScenarioRunner}

/** A job of Flink, with its async operator, that has the enricher before the real service. */
@Timeout(300)
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
@EnabledIfEnvironmentVariable(
  named = "PRINZ_TEST_REGISTRY",
  matches = ".+",
  disabledReason = "needs make test-nussknacker"
)
class FlinkScenariosTest {
  private val Model    = "moving"
  private val Events   = 10000
  private val provider = new PrinzComponentProvider

  private var cluster: FlinkMiniClusterHolder = _

  @BeforeAll
  def start(): Unit = {
    cluster = FlinkMiniClusterHolder(FlinkTestConfiguration.configuration())
    cluster.start()
  }

  @AfterAll
  def stop(): Unit = cluster.stop()

  private def withService[T](work: ServiceProcess => T): T = {
    val service = new ServiceProcess(ServiceProcess.freePort(), Model)
    try work(service)
    finally service.close()
  }

  private def resolved(service: ServiceProcess, timeout: String): Config =
    provider.resolveConfigForExecution(
      ConfigFactory.parseString(s"""address: "${service.address}", timeout: $timeout""")
    )

  private def run(config: Config, events: List[Number], fallback: String = ""): RunListResult[AnyRef] = {
    val scenario = ScenarioBuilder
      .streaming("scenario")
      .source("source", TestScenarioRunner.testDataSource)
      .enricher(
        "score",
        "out",
        "prinz",
        "Model"     -> s"'$Model'".spel,
        "Version"   -> "'1'".spel,
        "Raw input" -> "false".spel,
        "n"         -> "#input".spel,
        "Fallback"  -> fallback.spel
      )
      .emptySink("end", TestScenarioRunner.testResultSink, "value" -> "#out.product".spel)
    val components = provider.create(config, ProcessObjectDependencies(ConfigFactory.empty(), NamingStrategy(None)))
    TestScenarioRunner
      .flinkBased(ConfigFactory.parseString("""checkpointConfig.checkpointInterval: "1s""""), cluster)
      .withExtraComponents(components)
      .build()
      .runWithData[Number, AnyRef](scenario, events) match {
      case Valid(result)   => result
      case Invalid(errors) => fail[RunListResult[AnyRef]](errors.toString)
    }
  }

  /** Ten thousand events, two hundred of them in flight: each gets its own score; one that does not fit fails alone. */
  @Test
  def manyEvents(): Unit = withService { service =>
    val odd    = new java.math.BigDecimal("0.5")
    val events = (1 to Events).toList.map(number => if (number == 5000) odd: Number else Integer.valueOf(number))
    val result = run(resolved(service, "60s"), events)
    assertEquals((1 to Events).filterNot(_ == 5000).map(_ * 2L).toList, result.successes)
    assertEquals(1, result.errors.size)
    assertTrue(result.errors.head.throwable.getMessage.contains("n is not a whole number"))
  }

  /** A service that is away fails events, or has them get the fallback, and not the job. */
  @Test
  def theServiceIsAway(): Unit = {
    val config = withService(resolved(_, "300ms"))
    val events = List[Number](Integer.valueOf(1), Integer.valueOf(2))
    val failed = run(config, events)
    assertEquals(Nil, failed.successes)
    assertEquals(2, failed.errors.size, failed.errors.toString)
    assertEquals(List(7L, 7L), run(config, events, "{product: 7L}").successes)
  }

}
