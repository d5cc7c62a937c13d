// Follows a build with the browser's client, and prints each event on a line of its own.
// Arguments: the client's module, <provider>/<spec>, the URL of the build endpoint.
import { pathToFileURL } from "node:url";

globalThis.window = globalThis;
globalThis.document = {
  cookie: "",
  hidden: false,
  addEventListener() {},
  removeEventListener() {},
};

const [module, spec, endpoint] = process.argv.slice(2);
const { BinderRepository } = await import(pathToFileURL(module));
const repository = new BinderRepository(spec, new URL(endpoint), {
  apiToken: process.env.BINDER_TOKEN,
});
for await (const event of repository.fetch()) {
  console.log(JSON.stringify(event));
  if (event.phase === "ready") {
    repository.close();
  }
}
