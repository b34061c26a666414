import { el } from "../dom.js";
export class Compare { constructor(app) { this.app = app; this.node = el("div", {}, "soon"); } update() {} }
