package io.prinz.enricher.nussknacker

import cats.data.Validated.{Invalid, Valid}
import com.typesafe.config.{Config, ConfigException, ConfigFactory}
import io.prinz.enricher.client.ServiceProcess
import org.junit.jupiter.api.Assertions.{assertEquals, assertThrows, assertTrue, fail}
import org.junit.jupiter.api.condition.EnabledIfEnvironmentVariable
import org.junit.jupiter.api.{AfterAll, BeforeAll, Test, TestInstance, Timeout}
import pl.touk.nussknacker.engine.api.component.ComponentDefinition
import pl.touk.nussknacker.engine.api.namespaces.NamingStrategy
import pl.touk.nussknacker.engine.api.process.ProcessObjectDependencies
import pl.touk.nussknacker.engine.build.ScenarioBuilder
import pl.touk.nussknacker.engine.canonicalgraph.CanonicalProcess
import pl.touk.nussknacker.engine.graph.expression.Expression
import pl.touk.nussknacker.engine.lite.util.test.LiteTestScenarioRunner._
import pl.touk.nussknacker.engine.spel.SpelExtension._
import pl.touk.nussknacker.engine.util.test.{RunListResult, TestScenarioRunner}

import java.time.{LocalDateTime, ZoneOffset}
import scala.jdk.CollectionConverters._

/** Scenarios of Nussknacker's own lite engine, with the enricher before the real service. */
@Timeout(300)
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
@EnabledIfEnvironmentVariable(
  named = "PRINZ_TEST_REGISTRY",
  matches = ".+",
  disabledReason = "needs make test-nussknacker"
)
class ScenariosTest {
  private val Wine  = "MLF-ElasticnetWineModel-1"
  private val Fraud = "MLF-FraudDetection-3"

  private val provider = new PrinzComponentProvider

  private var service: ServiceProcess = _
  private var resolved: Config        = _

  @BeforeAll
  def start(): Unit = {
    // Where another test left it is that test's own.
    ServiceProcess.moveAlias("moving", "champion", "1")
    service = new ServiceProcess(ServiceProcess.freePort(), "MLF-*", "--preload", "t*", "--preload", "moving")
    resolved = resolve()
  }

  @AfterAll
  def stop(): Unit = service.close()

  private def resolve(more: String = ""): Config = resolved(service.address, s"timeout: 60s\n$more")

  private def resolved(address: String, more: String): Config =
    provider.resolveConfigForExecution(ConfigFactory.parseString(s"""address: "$address"\n$more"""))

  private def components(config: Config): List[ComponentDefinition] =
    provider.create(config, ProcessObjectDependencies(ConfigFactory.empty(), NamingStrategy(None)))

  private def scenario(value: Expression, fields: (String, Expression)*): CanonicalProcess =
    named("prinz", value, fields: _*)

  private def named(enricher: String, value: Expression, fields: (String, Expression)*): CanonicalProcess =
    ScenarioBuilder
      .streamingLite("scenario")
      .source("source", TestScenarioRunner.testDataSource)
      .enricher("score", "out", enricher, fields: _*)
      .emptySink("end", TestScenarioRunner.testResultSink, "value" -> value)

  private def chosen(model: String, version: String = "'default'", raw: Boolean = false): List[(String, Expression)] =
    List("Model" -> s"'$model'".spel, "Version" -> version.spel, "Raw input" -> raw.toString.spel)

  private def fraud(
      category: String = "'es_transportation'",
      amount: String = "800.0",
      fallback: String = ""
  ): List[(String, Expression)] = List(
    "age"      -> "'4'".spel,
    "gender"   -> "'F'".spel,
    "category" -> category.spel,
    "amount"   -> amount.spel,
    "Fallback" -> fallback.spel
  )

  private def times(version: String, n: String): CanonicalProcess =
    scenario("#out.product".spel, chosen("moving", version) ++ List("n" -> n.spel, "Fallback" -> "".spel): _*)

  private def run(
      scenario: CanonicalProcess,
      events: List[AnyRef] = List("event"),
      config: Config = resolved,
      test: Boolean = false
  ): TestScenarioRunner.RunnerListResult[AnyRef] = {
    val built  = components(config)
    val runner = TestScenarioRunner.liteBased().withExtraComponents(built)
    (if (test) runner.inTestRuntimeMode else runner).build().runWithData[AnyRef, AnyRef](scenario, events)
  }

  private def results(
      scenario: CanonicalProcess,
      events: List[AnyRef] = List("event"),
      config: Config = resolved
  ): RunListResult[AnyRef] =
    run(scenario, events, config) match {
      case Valid(result)   => result
      case Invalid(errors) => fail[RunListResult[AnyRef]](errors.toString)
    }

  private def success(scenario: CanonicalProcess, config: Config = resolved): AnyRef = {
    val result = results(scenario, config = config)
    assertEquals(Nil, result.errors)
    result.successes.head
  }

  private def refusals(scenario: CanonicalProcess, config: Config = resolved): String =
    run(scenario, config = config) match {
      case Valid(result)   => fail[String](s"it compiled: $result")
      case Invalid(errors) => errors.toList.map(_.toString).sorted.mkString("\n")
    }

  private def failure(scenario: CanonicalProcess, config: Config = resolved): String =
    results(scenario, config = config).errors.map(_.throwable.getMessage).mkString("\n")

  /** A model is chosen, a field filled for each input, and the typed score used by the next node. */
  @Test
  def fieldsAreFilledAndTheScoreIsUsed(): Unit = {
    val score = success(scenario("#out.output_0 + 1".spel, chosen(Fraud) ++ fraud(): _*))
    assertTrue(Set(1, 2).contains(score.asInstanceOf[Integer]), score.toString)
    assertEquals(score, success(scenario("#out.output_0 + 1".spel, chosen(Fraud, "'@champion'") ++ fraud(): _*)))
    assertEquals(score, success(scenario("#out.output_0 + 1".spel, chosen(Fraud, "'1'") ++ fraud(): _*)))
    // Whole numbers and decimals are numbers to a field of doubles.
    val filled = scenario("#out.output_0 + 1".spel, chosen(Fraud) ++ fraud(amount = "#input"): _*)
    List[AnyRef](Int.box(800), Long.box(800), new java.math.BigDecimal("800.0")).foreach { amount =>
      assertEquals(List(score), results(filled, List(amount)).successes, amount.getClass.getName)
    }
  }

  /** What is wrong with a form is told on the field, and never as an exception. */
  @Test
  def faultsAreOnTheirFields(): Unit = {
    assertTrue(refusals(scenario("#out".spel, chosen("nobody"): _*)).contains("Model"))
    assertTrue(refusals(scenario("#out".spel, chosen(Fraud, "'99'") ++ fraud(): _*)).contains("Version"))
    val wrong = refusals(scenario("#out".spel, chosen(Fraud) ++ fraud(category = "7", amount = "'much'"): _*))
    assertTrue(wrong.contains("category") && wrong.contains("amount"), wrong)
    val missing = refusals(scenario("#out".spel, chosen(Fraud) ++ fraud(amount = ""): _*))
    assertTrue(missing.contains("amount"), missing)
    val output = refusals(scenario("#out.nothing".spel, chosen(Fraud) ++ fraud(): _*))
    assertTrue(output.contains("nothing"), output)
    val fraction = refusals(times("'1'", "1.5"))
    assertTrue(fraction.contains("say how it is rounded"), fraction)
  }

  /** A value that would change on its way is refused, not cut off: the engine's own conversion would do that. */
  @Test
  def nothingIsCutOff(): Unit = {
    def scored(n: String) = results(times("'1'", "#input"), List(new java.math.BigDecimal(n)))
    assertEquals(List(8L), scored("4").successes)
    assertEquals(List(8L), scored("4.0").successes)
    val told = scored("4.5").errors.map(_.throwable.getMessage).mkString
    assertTrue(told.contains("n is not a whole number"), told)
  }

  /** One expression gives the whole record, or a list of records. */
  @Test
  def rawInput(): Unit = {
    val record = "{age: '4', gender: 'F', category: 'es_transportation', amount: 800.0}"
    def raw(input: String, value: String = "#out") =
      scenario(value.spel, chosen(Fraud, raw = true) ++ List("Input" -> input.spel, "Fallback" -> "".spel): _*)
    val one = success(raw(record, "#out.output_0"))
    val list = success(raw(s"{$record, $record}")).asInstanceOf[java.util.List[java.util.Map[String, AnyRef]]]
    assertEquals(List(one, one), list.asScala.toList.map(_.get("output_0")))
    val missing = refusals(raw("{age: '4', gender: 'F', amount: 800.0, more: 1}"))
    assertTrue(missing.contains("category is missing; more is no input of the model"), missing)
    assertTrue(refusals(raw("'text'")).contains("A record or a list of records is wanted"))
  }

  /** Values of all types come to the model as they are, and optional fields that are left empty are left out. */
  @Test
  def valuesOfEveryType(): Unit = {
    val row   = ServiceProcess.seen("text")
    val local = row.get("a datetime").asInstanceOf[LocalDateTime]
    row.put("a datetime", local.atOffset(ZoneOffset.UTC))
    row.remove("perhaps a double")
    val inputs = row.keySet().asScala.toList.map(name => name -> s"#input['$name']".spel)
    val empty  = List("perhaps a double", "perhaps a boolean").map(_ -> "".spel)
    val fields = chosen("touchy") ++ inputs ++ empty ++ List("Fallback" -> "".spel)
    val result = results(scenario("#out.saw".spel, fields: _*), List(row))
    assertEquals(Nil, result.errors)
    val saw = result.successes.head.toString
    assertTrue(saw.contains("9007199254740993") && !saw.contains("perhaps a double"), saw)
  }

  /** In tests of scenarios the model is asked, or values are made up, typed, as configured. */
  @Test
  def testsOfScenarios(): Unit = {
    val scored = scenario("#out.output_0".spel, chosen(Fraud) ++ fraud(): _*)
    def tested(config: Config): AnyRef = run(scored, config = config, test = true) match {
      case Valid(result)   => assertEquals(Nil, result.errors); result.successes.head
      case Invalid(errors) => fail[AnyRef](errors.toString)
    }
    assertEquals(success(scored), tested(resolved))
    assertEquals(0, tested(resolve("inTests: mock")))
    assertEquals(42, tested(resolve(s"""inTests: mock, mocks { "$Fraud" { output_0: 42 } }""")))
    val wrong = resolve(s"""inTests: mock, mocks { "$Fraud" { output_0: "many" } }""")
    val told  = run(scored, config = wrong, test = true).toOption.get.errors.map(_.throwable.getMessage).mkString
    assertTrue(told.contains("what is configured as its mock: output_0 is text; wanted integer"), told)
  }

  /** Each model may have an enricher of its own, named as it is. */
  @Test
  def anEnricherForEachModel(): Unit = {
    val config = resolve("""perModel: true, models: ["MLF-*"]""")
    assertEquals(Set(Wine, "MLF-ElasticnetWineModel-2", Fraud), components(config).map(_.name).toSet)
    val score = success(named(Fraud, "#out.output_0".spel, fraud(): _*), config)
    assertTrue(Set(0, 1).contains(score.asInstanceOf[Integer]), score.toString)
  }

  /** A job that starts again asks nobody but goes by what was deployed; a signature that changed is told as that. */
  @Test
  def definitionsAreFrozen(): Unit = {
    val four   = times("'@champion'", "4")
    val before = resolve()
    assertEquals(8L, success(four, before))
    ServiceProcess.moveAlias("moving", "champion", "3")
    try {
      val limit = System.nanoTime() + 60L * 1000 * 1000 * 1000
      var told  = ""
      while (!told.contains("SIGNATURE_CHANGED") && System.nanoTime() < limit) told = failure(four, before)
      assertTrue(told.contains("SIGNATURE_CHANGED"), told)
      // Resolved again, the form has the field of the other version.
      assertTrue(refusals(four, resolve()).contains("ParameterName(m)"))
    } finally ServiceProcess.moveAlias("moving", "champion", "1")
  }

  /** While the service is away events fail with a reason, or get the fallback; the scenario itself is whole. */
  @Test
  def theServiceIsAway(): Unit = {
    val own    = new ServiceProcess(ServiceProcess.freePort(), Fraud)
    val config =
      try resolved(own.address, "timeout: 500ms")
      finally own.close()
    def scored(fallback: String) =
      scenario("#out.output_0".spel, chosen(Fraud) ++ fraud(fallback = fallback): _*)
    val told = failure(scored(""), config)
    assertTrue(told.contains(Fraud) && told.contains("UNAVAILABLE"), told)
    assertEquals(7, success(scored("{output_0: 7}"), config))
    // Asked again, its models are those that were read last.
    val again = resolved(own.address, "timeout: 500ms")
    assertEquals(7, success(scored("{output_0: 7}"), again))
    val never = resolved(s"127.0.0.1:${ServiceProcess.freePort()}", "")
    assertTrue(refusals(scored(""), never).contains("The models could not be read"))
    // Where that is asked for, the engine learns of it as what starts a job again.
    val restarting = resolved(own.address, "timeout: 500ms, restartWhenAway: true")
    val away       = results(scored(""), config = restarting).errors.head.throwable
    val causes     = Iterator.iterate[Throwable](away)(_.getCause).takeWhile(_ != null).toList
    assertTrue(causes.exists(_.isInstanceOf[java.net.ConnectException]), away.toString)
  }

  /** Of many events each gets its own score; one that does not fit fails alone, by name. */
  @Test
  def manyEvents(): Unit = {
    val events = (1 to 500).toList.map { number =>
      if (number == 250) new java.math.BigDecimal("0.5") else Integer.valueOf(number)
    }
    val result = results(times("'1'", "#input"), events)
    assertEquals((1 to 500).filterNot(_ == 250).map(_ * 2L).toSet, result.successes.map(_.asInstanceOf[Long]).toSet)
    assertEquals(1, result.errors.size)
    assertTrue(result.errors.head.throwable.getMessage.contains("n is not a whole number"))
  }

  /** What is configured wrongly is said when it is read. */
  @Test
  def wrongConfiguration(): Unit = {
    val right = ConfigFactory.parseString("""address: "localhost:1"""")
    assertEquals("prinz", ProviderSettings.read(right).name)
    val far = """token: t, address: "models.example:1""""
    List("timeout: 0s", "inTests: perhaps", far, "adress: x", "versions: many").foreach { wrong =>
      val config = ConfigFactory.parseString(wrong).withFallback(right)
      assertThrows(classOf[ConfigException], () => { ProviderSettings.read(config); () }, wrong)
    }
  }

}
