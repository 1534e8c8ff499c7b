// A worker that does nothing with each job but count it: node worker.js PORT CONCURRENCY.
//
// Says "ready" when it is connected, begins at the line "go", says "done COUNT TIME" as jobs are settled,
// after the line "pickup" also "start TIME" for each job as its work begins, and ends with its input.

import { createInterface } from 'node:readline';
import { Worker } from 'bullmq';
import { QUEUE, connection, now, say } from './clock.js';

const [port, concurrency] = process.argv.slice(2);
let pickup = false;
let done = 0;
let last = 0n;
let told = 0;

async function work() {
  if (pickup) {
    const began = now();
    say(`start ${began}`);
  }
  return { success: true };
}

const worker = new Worker(QUEUE, work, {
  connection: connection(port),
  concurrency: Number(concurrency),
  autorun: false,
});
worker.on('completed', () => {
  done += 1;
  last = now();
});
worker.on('failed', (_, error) => console.error(`bullmq: ${error}`));
worker.on('error', (error) => console.error(`bullmq: ${error}`));

// Seldom enough to cost nothing; the time is that of the job, not of the line.
setInterval(() => {
  if (done > told) {
    told = done;
    say(`done ${done} ${last}`);
  }
}, 10);

await worker.waitUntilReady();
say('ready');
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'go') worker.run();
  if (line === 'pickup') pickup = true;
}
await worker.close();
process.exit(0);
