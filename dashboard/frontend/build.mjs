// Builds ../static: one ES module with the style inside, and the licences of what it holds.
// `node build.mjs --check` compares with the committed files instead, and fails where they differ.

import { readFile, writeFile } from "node:fs/promises";
import { build, transform } from "esbuild";

const STATIC = new URL("../static/", import.meta.url);
const BANNER = "// Built from dashboard/frontend by build.mjs; holds uPlot (MIT). Licences: LICENSES.txt.";

const styles = {
  name: "styles",
  setup(bundler) {
    bundler.onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(await readFile(path, "utf8"), { loader: "css", minify: true });
      return { contents: code, loader: "text" };
    });
  },
};

async function bundle() {
  const { outputFiles } = await build({
    absWorkingDir: new URL(".", import.meta.url).pathname,
    entryPoints: ["main.js"],
    bundle: true,
    format: "esm",
    minify: true,
    charset: "utf8",
    target: "es2022",
    legalComments: "none",
    banner: { js: BANNER },
    plugins: [styles],
    write: false,
  });
  return outputFiles[0].text;
}

async function licences() {
  const own = await readFile(new URL("../../LICENSE", import.meta.url), "utf8");
  const { version } = JSON.parse(await readFile(new URL("node_modules/uplot/package.json", import.meta.url), "utf8"));
  const plot = await readFile(new URL("node_modules/uplot/LICENSE", import.meta.url), "utf8");
  return `index.js holds\n\n1. convscope's own modules, Apache-2.0\n2. uPlot ${version}, MIT\n\n${line("uPlot")}${plot}\n${line("convscope")}${own}`;
}

function line(name) {
  return `---- ${name} ----\n\n`;
}

const files = { "index.js": await bundle(), "LICENSES.txt": await licences() };
for (const [name, text] of Object.entries(files)) {
  const path = new URL(name, STATIC);
  if (!process.argv.includes("--check")) await writeFile(path, text);
  else if ((await readFile(path, "utf8").catch(() => "")) !== text) {
    console.error(`dashboard/static/${name} is not what the sources build: run \`npm ci && npm run build\``);
    process.exitCode = 1;
  }
  console.log(`${name}: ${(Buffer.byteLength(text) / 1000).toFixed(1)} kB`);
}
