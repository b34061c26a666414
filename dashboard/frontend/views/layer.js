import { el } from "../dom.js";
export class Layer { constructor(app) { this.app = app; this.node = el("div", {}, "soon"); } update() {} }
