// A session of the official JavaScript client, as its users write it.
import { createRequire } from 'node:module';
import { PassThrough } from 'node:stream';
import { resolve } from 'node:path';
import assert from 'node:assert/strict';

// The client is installed beside the build, not beside this file.
const require = createRequire(resolve(process.argv[3]) + '/');
const k8s = await import(require.resolve('@kubernetes/client-node'));

const namespace = 'javascript-session';
const did = (what) => console.log(`did: ${what}`);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function waitFor(what, check, seconds = 240) {
  const deadline = Date.now() + seconds * 1000;
  while (Date.now() < deadline) {
    const found = await check();
    if (found) return found;
    await sleep(100);
  }
  throw new Error(`no ${what} within ${seconds} s`);
}

function job(name, command) {
  const spec = {
    restartPolicy: 'Never',
    terminationGracePeriodSeconds: 1,
    containers: [{ name: 'main', image: 'host', command }],
  };
  const metadata = { labels: { app: name }, annotations: { 'stint.dev/rootfs': 'host' } };
  return { apiVersion: 'batch/v1', kind: 'Job', metadata: { name, labels: { app: name } }, spec: { template: { metadata, spec } } };
}

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const core = config.makeApiClient(k8s.CoreV1Api);
const batch = config.makeApiClient(k8s.BatchV1Api);

await core.createNamespace({ body: { metadata: { name: namespace } } });
did('create a namespace');

const missing = await core.readNamespacedConfigMap({ name: 'no-such', namespace }).catch((error) => error);
assert.equal(missing.code, 404);
did('be told that something is not there');

// Watch first, then create: without a resourceVersion, as this client does.
const events = [];
const watch = new k8s.Watch(config);
const watching = await watch.watch(
  `/apis/batch/v1/namespaces/${namespace}/jobs`,
  {},
  (type, object) => events.push([type, object]),
  () => {},
);
await batch.createNamespacedJob({ namespace, body: job('hello', ['sh', '-c', 'echo hello']) });
await waitFor('completion', () => events.some(([, object]) => object.status?.succeeded === 1));
assert.equal(events[0][0], 'ADDED');
watching.abort();
did('watch a Job until it has succeeded');

const { items } = await core.listNamespacedPod({ namespace, labelSelector: 'batch.kubernetes.io/job-name=hello' });
assert.equal(items.length, 1);
assert.equal(await core.readNamespacedPodLog({ name: items[0].metadata.name, namespace }), 'hello\n');
const streamed = new PassThrough();
let log = '';
streamed.on('data', (chunk) => (log += chunk));
await new k8s.Log(config).log(namespace, items[0].metadata.name, 'main', streamed, { follow: true });
await waitFor('log', () => log === 'hello\n');
did('read a log, whole and as a stream');

const patched = await batch.patchNamespacedJob({
  name: 'hello',
  namespace,
  body: [{ op: 'add', path: '/metadata/labels/x', value: '1' }],
});
assert.equal(patched.metadata.labels.x, '1');
const objects = k8s.KubernetesObjectApi.makeApiClient(config);
const map = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'words', namespace }, data: { a: '1' } };
await objects.create(map);
const merged = await objects.patch(
  { ...map, data: { b: '2' } }, undefined, undefined, 'session', undefined, k8s.PatchStrategy.MergePatch,
);
assert.deepEqual(merged.data, { a: '1', b: '2' });
did('patch in two ways');

await batch.createNamespacedJob({ namespace, body: job('sleeper', ['sleep', '600']) });
const sleeper = await waitFor('running pod', async () => {
  const pods = await core.listNamespacedPod({ namespace, labelSelector: 'app=sleeper' });
  return pods.items.find((pod) => pod.status?.phase === 'Running');
});
const output = new PassThrough();
let said = '';
output.on('data', (chunk) => (said += chunk));
const status = await new Promise((done, fail) => {
  const errors = new PassThrough();
  new k8s.Exec(config)
    .exec(namespace, sleeper.metadata.name, 'main', ['sh', '-c', 'echo out; exit 4'], output, errors, null, false, done)
    .catch(fail);
});
assert.equal(status.status, 'Failure');
assert.equal(status.details.causes[0].message, '4');
await waitFor('output', () => said === 'out\n');
did('execute in a pod');

const informed = new Set();
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/pods`, () => core.listNamespacedPod({ namespace }));
informer.on('add', (pod) => informed.add(pod.metadata.name));
informer.on('delete', (pod) => informed.delete(pod.metadata.name));
await informer.start();
await waitFor('informer', () => informed.has(sleeper.metadata.name));
await batch.deleteNamespacedJob({ name: 'sleeper', namespace, propagationPolicy: 'Background' });
await waitFor('end of the pod', () => !informed.has(sleeper.metadata.name));
await informer.stop();
did('follow pods with an informer');

await core.deleteNamespace({ name: namespace });
await waitFor('end of the namespace', async () => {
  const namespaces = await core.listNamespace();
  return !namespaces.items.some((one) => one.metadata.name === namespace);
});
did('delete the namespace and all that is in it');
process.exit(0);
