// The clock that all parts of the benchmark share: the system's monotonic one, in microseconds.

/** Microseconds since the machine started. */
export function now() {
  return process.hrtime.bigint() / 1000n;
}

/** Says a line to whoever started this process. */
export function say(line) {
  process.stdout.write(`${line}\n`);
}

/** Where the queue is. */
export const QUEUE = 'steadfast-bench';

/** How to reach the server on this port of the loopback. */
export function connection(port) {
  return { host: '127.0.0.1', port: Number(port), maxRetriesPerRequest: null };
}
