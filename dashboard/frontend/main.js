// Entry of the tab: TensorBoard imports this module into a frame, and calls `render`.

import { App } from "./app.js";
import { mark } from "./dom.js";
import { chooseSource } from "./source.js";
import style from "./style.css";
import plotStyle from "uplot/dist/uPlot.min.css";

export async function render() {
  mark("begin");
  const sheet = document.createElement("style");
  sheet.textContent = plotStyle + style;
  document.head.append(sheet);
  document.documentElement.lang = "en";
  document.title ||= "convscope";
  const place = document.getElementById("convscope-view"); // in a report, whose summary stays above
  await new App(place ?? document.body, chooseSource()).start();
}
