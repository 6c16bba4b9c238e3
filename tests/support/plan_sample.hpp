#pragma once
// A question and plans with numbers that are easy to read: the worked example of a Mixtral 8x22B on 128 H100.
#include <moefold/model/mixtral.hpp>
#include <moefold/plan/report.hpp>

namespace moefold {

inline plan_question sample_question() {
  plan_question q;
  q.model = "mixtral-8x22b";
  q.job.model = mixtral_8x22b;
  q.job.gpus = 128, q.job.sequence = 4096, q.job.global_batch = 256;
  q.cluster = dgx_h100;
  return q;
}

inline prediction sample_plan(double seconds, double mfu) {
  prediction p;
  p.mapping = {2, 1, 8, 8, 1, 8, 2, 7, 1, {}};
  p.step_seconds = seconds, p.mfu = mfu, p.mfu_causal = mfu - 0.017, p.tflops = mfu * 989.5;
  p.memory = {0, 9'400'000'000, 18'800'000'000, 8'300'000'000, 31'000'000'000, 2'031'000'000, 5'369'000'000};
  p.fits = true;
  p.time.gemm = 0.8 * seconds, p.time.tp = 0.03 * seconds, p.time.ep = 0.041 * seconds, p.time.bubble = 0.031 * seconds;
  p.time.other = seconds - p.time.total();
  return p;
}

}  // namespace moefold
