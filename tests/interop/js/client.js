// A client of Keyfold on grpc-js: `node client.js TARGET CREDENTIALS DESCRIPTORS`, as in ../go/main.go.
"use strict";

const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [target, folder, descriptors] = process.argv.slice(2);
const options = { keepCase: true, longs: String, enums: String, defaults: true };
const contract = grpc.loadPackageDefinition(
  loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(descriptors), options),
);
const credentials =
  folder === "-"
    ? grpc.credentials.createInsecure()
    : grpc.credentials.createSsl(
        ...["ca.pem", "client.key", "client.pem"].map((name) => fs.readFileSync(`${folder}/${name}`)),
      );
const keys = new contract.keyfold.v1.KeyManagementService(target, credentials);
const health = new contract.grpc.health.v1.Health(target, credentials);
const KEY = Buffer.from("0123456789abcdef");

function call(method, asked) {
  return new Promise((resolve, reject) => {
    keys[method](asked, { deadline: Date.now() + 20_000 }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

const wrap = () => call("Wrap", { cluster: "prod", region: "eu", plaintext: KEY });

/** Begins a stream; resolves to it once its first message has come. */
function watch(options) {
  return new Promise((resolve, reject) => {
    const stream = health.Watch({}, options);
    stream.once("data", () => resolve(stream));
    stream.on("error", reject);
  });
}

function ends(stream, code) {
  return new Promise((resolve, reject) => {
    stream.on("error", (error) => (error.code === code ? resolve() : reject(error)));
    stream.on("end", () => reject(new Error("it ended without an error")));
  });
}

function must(truth, what) {
  if (!truth) throw new Error(what);
}

const checks = {
  async "a key and back"() {
    const { wrapped_key } = await wrap();
    const { plaintext } = await call("Unwrap", { cluster: "prod", wrapped_key });
    must(plaintext.equals(KEY), "another key came back");
  },
  async "an error with details"() {
    const error = await call("Wrap", { cluster: "nope", region: "eu", plaintext: KEY }).catch((e) => e);
    must(error.code === grpc.status.NOT_FOUND, error);
    const [details] = error.metadata.get("grpc-status-details-bin");
    must(details.includes("CLUSTER_NOT_FOUND"), details);
  },
  async "a deadline"() {
    const stream = await watch({ deadline: Date.now() + 500 });
    await ends(stream, grpc.status.DEADLINE_EXCEEDED);
  },
  async "a cancel"() {
    const stream = await watch({});
    const ended = ends(stream, grpc.status.CANCELLED);
    stream.cancel();
    await ended;
    await wrap();
  },
  async "a large message"() {
    const items = Array.from({ length: 1000 }, () => ({ plaintext: Buffer.alloc(3000, "k") }));
    const { results } = await call("BatchWrap", { cluster: "prod", region: "eu", items });
    must(results.length === 1000, `${results.length} results`);
  },
  async "many calls at once"() {
    await Promise.all(Array.from({ length: 200 }, wrap));
  },
};

(async () => {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
    } catch (error) {
      console.error(`${name}:`, error);
      process.exit(1);
    }
    console.log(name);
  }
  process.exit(0);
})();
