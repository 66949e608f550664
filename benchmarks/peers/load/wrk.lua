-- Posts a file, looks for a text in each answer, and tells the figures as one line of JSON.
-- wrk ... --script wrk.lua URL -- FILE [TEXT]

-- Of the whole program; each thread has a state of its own, which `done` reads.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = file:read("*a")
  file:close()
  expected = arguments[2] or ""
  unexpected, failed, first = 0, 0, ""
end

function response(status, _, body)
  if status ~= 200 then
    if failed == 0 then
      first = "HTTP " .. status .. ": " .. body:sub(1, 200):gsub("[^%w %.,:_-]", " ")
    end
    failed = failed + 1
  elseif expected ~= "" and not body:find(expected, 1, true) then
    unexpected = unexpected + 1
  end
end

function done(summary, latency)
  local unexpected, failed, first = 0, 0, ""
  for _, thread in ipairs(threads) do
    unexpected = unexpected + thread:get("unexpected")
    failed = failed + thread:get("failed")
    if first == "" then first = thread:get("first") end
  end
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  if broken > 0 and first == "" then first = broken .. " connections failed" end
  local good = summary.requests - failed - unexpected
  io.write(string.format(
    '{"rate": %.3f, "p50_ms": %.4f, "p99_ms": %.4f, "errors": %d, "error": "%s", "unexpected": %d}\n',
    good / (summary.duration / 1e6), latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed + broken, first, unexpected))
end
