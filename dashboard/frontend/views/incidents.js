import { el } from "../dom.js";
export class Incidents { constructor(app) { this.app = app; this.node = el("div", {}, "soon"); } update() {} }
