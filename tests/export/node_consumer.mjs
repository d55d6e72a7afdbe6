// Runs a guard on raw uint8 images: node node_consumer.mjs guard.onnx images.bin H W C > answers.json
import fs from "node:fs";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
const [file, images, ...shape] = process.argv.slice(2);
const [height, width, channels] = shape.map(Number);
const pixels = new Uint8Array(fs.readFileSync(images));
const session = await ort.InferenceSession.create(fs.readFileSync(file));
const count = pixels.length / (height * width * channels);
const input = new ort.Tensor("uint8", pixels, [count, height, width, channels]);
const { label, ood_score, is_ood } = await session.run({ images: input });
const answers = { label: Array.from(label.data, Number), ood_score: [...ood_score.data], is_ood: [...is_ood.data] };
process.stdout.write(JSON.stringify(answers));
