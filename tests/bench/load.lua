-- What wrk sends, and its figures as one line of JSON. Arguments: method, bytes of the body, paths.
local requests, turn = {}, 0

function init(arguments)
  local body = nil
  if tonumber(arguments[2]) > 0 then body = string.rep("z", tonumber(arguments[2])) end
  local headers = { ["Accept"] = "application/fhir+json", ["User-Agent"] = "bench/1" }
  if body then headers["Content-Type"] = "application/fhir+json" end
  for index = 3, #arguments do
    table.insert(requests, wrk.format(arguments[1], arguments[index], headers, body))
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors, failed = summary.errors, 0
  for _, kind in ipairs({ "connect", "read", "write", "status", "timeout" }) do
    failed = failed + errors[kind]
  end
  io.write(string.format(
    'figures {"requests": %d, "bytes": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "failed": %d}\n',
    summary.requests, summary.bytes, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, failed))
end
