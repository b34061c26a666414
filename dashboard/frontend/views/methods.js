import { el } from "../dom.js";
export class Methods { constructor(app) { this.app = app; this.node = el("div", {}, "soon"); } update() {} }
