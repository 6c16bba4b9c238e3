#pragma once
// A function that is kept: any callable of a signature, as std::function, whose header takes as long to compile as all communicators do.
//
//   callback<void(int)> f;  if (f) ..   f = [x](int i) { .. };   f(3);      copies share one callable
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace moefold {

template <class Signature>
class callback;
template <class Result, class... Arguments>
class callback<Result(Arguments...)> {
 public:
  callback() = default;
  callback(std::nullptr_t) {}
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, callback> && std::is_invocable_r_v<Result, F&, Arguments...>)
  callback(F&& f)
      : kept_(std::make_shared<std::decay_t<F>>(std::forward<F>(f))), call_([](void* kept, Arguments... arguments) -> Result {
          return (*static_cast<std::decay_t<F>*>(kept))(std::forward<Arguments>(arguments)...);
        }) {}
  explicit operator bool() const { return call_ != nullptr; }
  Result operator()(Arguments... arguments) const { return call_(kept_.get(), std::forward<Arguments>(arguments)...); }

 private:
  std::shared_ptr<void> kept_;
  Result (*call_)(void*, Arguments...) = nullptr;
};

}  // namespace moefold
