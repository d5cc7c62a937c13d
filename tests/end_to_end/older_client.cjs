// Goes the whole way with the older protocol's own client, and prints what each step answered.
// Arguments: the folder of the client's module, the repository, host and port. The key is in
// BINDER_API_KEY.
const [module_, repository, host, port] = process.argv.slice(2);
const binder = require(module_);

function ask(group, endpoint, params) {
  const options = {
    host,
    port,
    "api-key": process.env.BINDER_API_KEY,
    // This client wants every parameter named, even those that may be left out.
    force: undefined,
    "cull-timeout": undefined,
    ...params,
  };
  return new Promise((resolve, reject) => {
    binder[group][endpoint](options, (error, body) => (error ? reject(error) : resolve(body)));
  });
}

async function poll(group, endpoint, params, good) {
  for (;;) {
    const body = await ask(group, endpoint, params);
    if (good(body)) {
      return body;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function main() {
  const told = {};
  told.start = await ask("build", "start", { repository });
  const name = told.start.name;
  told.again = await ask("build", "start", { repository }).catch((error) => error.message);
  const ended = (body) => body.status === "completed" || body.status === "failed";
  told.build = await poll("build", "status", { "image-name": name }, ended);
  told.builds = await ask("build", "statusAll", {});
  told.template = await ask("registry", "fetch", { "template-name": name });
  told.templates = await ask("registry", "fetchAll", {});
  told.preload = await ask("deploy", "_preload", { "template-name": name });
  told.deployed = await ask("deploy", "deploy", { "template-name": name });
  const asked = { "template-name": name, id: told.deployed.id };
  told.location = (await poll("deploy", "status", asked, (body) => body.location)).location;
  told.deployments = await ask("deploy", "statusAll", { "template-name": name });
  told.health = await ask("health", "status", {});
  const wrong = { "template-name": "nosuch" };
  told.missing = await ask("registry", "fetch", wrong).catch((error) => error.message);
  told.refused = await ask("registry", "fetchAll", { "api-key": "no" }).catch(
    (error) => error.message,
  );
  console.log(JSON.stringify(told));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
