// Fills the queue, then adds a job for each line "add": node producer.js PORT JOBS < jobs.
//
// Says "filled" when the jobs are in, and "added TIME" with the time at which each was handed over.

import { createInterface } from 'node:readline';
import { Queue } from 'bullmq';
import { QUEUE, connection, now, say } from './clock.js';

const BATCH = 1000;

const [port, jobs] = process.argv.slice(2).map(Number);
const queue = new Queue(QUEUE, { connection: connection(port) });
await queue.waitUntilReady();

// The same job as the other systems are given.
function job(number) {
  const name = `job-${number}`;
  const data = {
    id: name,
    installationId: 0,
    repoOwner: `owner-${number % 10}`,
    repoName: `repository-${number % 1000}`,
    taskType: 'autonomous',
    status: 'pending',
    taskParams: { issueTitle: 'Nothing', issueBody: 'To be counted, not to be done.' },
    createdAt: '2025-10-09T00:00:00.000Z',
  };
  return { name: 'job', data, opts: { jobId: name } };
}

for (let from = 0; from < jobs; from += BATCH) {
  const batch = [];
  for (let number = from; number < Math.min(jobs, from + BATCH); number += 1) batch.push(job(number));
  await queue.addBulk(batch);
}
say('filled');
let number = jobs;
for await (const line of createInterface({ input: process.stdin })) {
  if (line !== 'add') continue;
  const { name, data, opts } = job(number);
  number += 1;
  const handed = now();
  await queue.add(name, data, opts);
  say(`added ${handed}`);
}
await queue.close();
process.exit(0);
