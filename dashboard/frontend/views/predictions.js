import { el } from "../dom.js";
export class Predictions { constructor(app) { this.app = app; this.node = el("div", {}, "soon"); } update() {} }
